-- As browser.lua, but a POST with a body of as many bytes as the first argument says.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(folder .. "browser.lua")

function init(arguments)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/octet-stream"
   wrk.body = ("x"):rep(tonumber(arguments[1]))
end
