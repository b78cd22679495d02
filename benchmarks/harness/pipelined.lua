-- As browser.lua, but as many requests at once as the first argument says.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(folder .. "browser.lua")

local batch

function init(arguments)
   batch = wrk.format():rep(tonumber(arguments[1]))
end

function request()
   return batch
end
