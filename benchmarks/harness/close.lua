-- As browser.lua, but each request asks for the connection to be closed.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
dofile(folder .. "browser.lua")

wrk.headers["Connection"] = "close"
