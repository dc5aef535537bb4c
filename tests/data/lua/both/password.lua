-- Questions for passwords, with a little wheel as the only echo.
local core = require("core")
local screen = require("screen")

local password = {}
local WRONG = "loader: incorrect password"
local WHEEL = {"/", "-", "\\", "|"}
local clean = false

local function wipe()
	screen.clear()
	screen.defcursor()
	clean = true
end

function password.read(after)
	local typed, turn = "", 1
	local function echo()
		printc(WHEEL[turn])
		screen.setcursor(after + 2, screen.default_y)
		turn = turn % #WHEEL + 1
	end
	printc(" ")
	while true do
		local key = io.getchar()
		if key == core.KEY_ENTER then
			return typed
		elseif key == core.KEY_BACKSPACE or key == core.KEY_DELETE then
			if #typed > 0 then
				echo()
				typed = typed:sub(1, #typed - 1)
			end
		else
			echo()
			typed = typed .. string.char(key)
		end
	end
end

local function ask(question, wanted)
	if not clean then
		wipe()
	end
	while true do
		screen.defcursor()
		printc(question)
		local typed = password.read(#question)
		if wanted == nil or typed == wanted then
			printc(string.rep(" ", #question + 5))
			return typed
		end
		printc("\n" .. WRONG)
		loader.delay(core.PATIENCE)
		printc("\r" .. string.rep(" ", #WRONG))
	end
end

function password.check()
	local lock = loader.getenv("bootlock_password")
	if lock then
		ask("Bootlock password:", lock)
	end
	local geli = loader.getenv("geom_eli_passphrase_prompt")
	if geli and geli:lower() == "yes" then
		loader.setenv("kern.geom.eli.passphrase", ask("GELI Passphrase:"))
	end
	local wanted = loader.getenv("password")
	if wanted then
		core.autoboot()
		wipe()
		ask("Loader password:", wanted)
	end
end

return password
