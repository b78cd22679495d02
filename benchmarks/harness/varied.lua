-- As browser.lua, but no two requests in a row on a connection have the same fields.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(folder .. "browser.lua")

local requests, sent = {}, 0

function init()
   for number = 1, 101 do
      wrk.headers["Cookie"] = ("csrftoken=Q0f3mYl9uK2vXr7tPz5sWb1n; sessionid=7d1c9e5ab3f%05d"):format(number)
      requests[number] = wrk.format()
   end
end

function request()
   sent = sent % #requests + 1
   return requests[sent]
end
