-- As browser.lua, but no two requests in a row on a connection have the same Cookie, Referer and
-- X-Forwarded-For: what a site behind a proxy sees.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(folder .. "browser.lua")

local requests, sent = {}, 0

function init()
   for number = 1, 101 do
      wrk.headers["Cookie"] = ("csrftoken=Q0f3mYl9uK2vXr7tPz5sWb1n; sessionid=7d1c9e5ab3f%05d"):format(number)
      wrk.headers["Referer"] = ("http://127.0.0.1:8000/articles/%03d?page=2"):format(number)
      wrk.headers["X-Forwarded-For"] = ("198.51.100.%d, 203.0.113.7"):format(100 + number)
      requests[number] = wrk.format()
   end
end

function request()
   sent = sent % #requests + 1
   return requests[sent]
end
