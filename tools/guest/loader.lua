-- The demo guest's boot script: what FreeBSD's own /boot/lua/loader.lua does with many files, in a few lines.
print("This is the guest's /boot/lua/loader.lua, run by bhyveload on " .. loader.getenv("loaddev"))

local file = io.open("/boot/greeting", "r")
if file ~= nil then
	loader.setenv("demo.greeting", (io.read(file, 200):gsub("%s+$", "")))
	io.close(file)
end
loader.setenv("demo.script", _VERSION)
loader.setenv("demo.disk", loader.getenv("loaddev"))

if loader.perform("load /boot/kernel/kernel") == loader.CMD_ERROR then
	print(loader.command_error())
end
loader.perform("load -t md_image /boot/greeting")
