-- Named lists of functions: modules announce an event, others ask to be called when it happens.
local hook = {}
local lists = {}

function hook.registerType(event)
	lists[event] = lists[event] or {}
end

function hook.register(event, action)
	local list = lists[event]
	if not list then
		print("no such hook: " .. event)
		return
	end
	list[#list + 1] = action
end

function hook.runAll(event)
	local ran = 0
	for _, action in ipairs(lists[event] or {}) do
		action()
		ran = ran + 1
	end
	return ran
end

return hook
