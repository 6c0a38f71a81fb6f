-- Takes tasks of one lane that wait out of it, and tells the workers about those that run.
--
-- KEYS  1 pending  2 scheduled  3 retry  4 cancelled
-- ARGV  1 now, Unix seconds  2 prefix of the task hashes, which share the slot of the keys
--       3 first and 4 last place of pending to look at, where it is long  5 length from which on it is long
--       6 '1' to cancel; '0' to take out only who waits, because it lives on in another lane  then the task ids
-- Returns one word for each task:
--   removed    it waited and is gone
--   elsewhere  it waits, at a place of a long line that was not looked at
--   marked   it runs; with '0' it runs on
--   missing  it is done, dead or was never there
local call = redis.call
local answers, waiting, marked = {}, {}, {}

-- The first write is one that a full Redis refuses, so that it refuses all or nothing.
for i = 7, #ARGV do
	local id, answer = ARGV[i], 'marked'
	local state = call('HGET', ARGV[2] .. id, 'state')
	if not state or state == 'completed' or state == 'archived' then
		answer = 'missing'
	else
		if ARGV[6] == '1' then
			call('ZADD', KEYS[4], ARGV[1], id)
		end
		if call('ZREM', KEYS[2], id) + call('ZREM', KEYS[3], id) > 0 then
			call('DEL', ARGV[2] .. id)
			answer = 'removed'
		elseif state == 'pending' then
			answer, waiting[id] = 'elsewhere', i - 6
		else
			marked[#marked + 1] = id
		end
	end
	answers[i - 6] = answer
end

-- One walk for all of them: a place is overwritten quickly, while taking one out of the middle reads the line.
local first, last = tonumber(ARGV[3]), tonumber(ARGV[4])
if call('LLEN', KEYS[1]) < tonumber(ARGV[5]) then
	first, last = 0, -1
end
local emptied = 0
if next(waiting) then
	for n, id in ipairs(call('LRANGE', KEYS[1], first, last)) do
		if waiting[id] then
			call('LSET', KEYS[1], first + n - 1, '')
			call('DEL', ARGV[2] .. id)
			answers[waiting[id]] = 'removed'
			emptied = emptied + 1
		end
	end
end
if emptied > 0 then
	call('LREM', KEYS[1], emptied, '') -- no id is empty
end
if #marked > 0 and ARGV[6] == '1' then
	redis.pcall('PUBLISH', KEYS[4], table.concat(marked, ' ')) -- whoever runs one ends it at once
end
return answers
