-- Turns tasks into dead letters: those that asynq archived, or an active one that crashed too often. The
-- task leaves every list it may be in, since asynq's archive can fail half-way (T6).
--
-- KEYS  1 archived or active, where a task must be  2 active  3 lease  4 dead  5 causes
--       then for each task its hash and its letter
-- ARGV  for each task  1 id  2 code  3 message  4 last failure, Unix ms  5 attempts  6 worker  7 kind
--       8 document  9 source
-- Returns how many were buried; others are not there any more, and were left alone.
local function take(id)
	if KEYS[1] == KEYS[2] then
		return redis.call('LREM', KEYS[2], 0, id) + redis.call('ZREM', KEYS[3], id) > 0
	end
	if redis.call('ZREM', KEYS[1], id) == 0 then
		return false
	end
	redis.call('LREM', KEYS[2], 0, id)
	redis.call('ZREM', KEYS[3], id)
	return true
end

local buried = 0
for i = 6, #KEYS, 2 do
	local n = (i - 6) / 2 * 9
	local id = ARGV[n + 1]
	if take(id) then
		local known = redis.call('HMGET', KEYS[i], 'msg', 'first', 'crashes')
		keep(KEYS[4], KEYS[5], KEYS[i + 1], id, {
			code = ARGV[n + 2], message = ARGV[n + 3], last = ARGV[n + 4], attempts = ARGV[n + 5],
			worker = ARGV[n + 6], kind = ARGV[n + 7], document = ARGV[n + 8], source = ARGV[n + 9],
			first = known[2] or ARGV[n + 4], crashes = known[3] or 0, msg = known[1] or '',
		})
		redis.call('DEL', KEYS[i])
		buried = buried + 1
	end
end
return buried
