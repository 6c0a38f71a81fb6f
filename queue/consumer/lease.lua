-- Leases tasks of one lane, so many as make the work that is asked for, as asynq's own dequeue leases one. Of what
-- waits longest first; whoever has expired or was cancelled is dropped on the way.
--
-- KEYS  1 pending  2 active  3 lease  4 paused  5 cancelled  6 counts
-- ARGV  1 how many tasks at most  2 how much work, in tokens  3 how long the leases last, seconds
--       4 holder, under which the consumer knows this lease and nobody else does  5 prefix of the task hashes
--       6 tokens that the model reads at once  7 tokens at which attention costs as much as the rest
-- Returns how many were dropped, then for each leased task its id, its message and its work.
local call = redis.call
local most, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local window, half = tonumber(ARGV[6]), tonumber(ARGV[7])

-- What a text of so many tokens costs, in tokens of short texts: attention grows with the square of a window.
local function cost(tokens)
	local whole = math.floor(tokens / window)
	local rest = tokens - whole * window
	return whole * (window + window * window / half) + rest + rest * rest / half
end

-- How many tokens a text has by its hash, if that is a number that a text can have; else what its size says. Whatever
-- somebody wrote there, what is added up stays a number.
local function tokens_of(known)
	local tokens = tonumber(known[3])
	return tokens and tokens >= 0 and tokens <= 2 ^ 20 and tokens or #known[1] / 4
end

local tail = call('LRANGE', KEYS[1], -most, -1)
if #tail == 0 or call('EXISTS', KEYS[4]) == 1 then
	return { 0 }
end
local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local cancelled = call('EXISTS', KEYS[5]) == 1
local ids, leases, answer, gone = {}, {}, { 0 }, {}
local work, seen = 0, 0

local function look(id)
	local hash = ARGV[5] .. id
	local known = redis.pcall('HMGET', hash, 'msg', 'expires', 'tokens') -- fails where there is something else than a hash
	local expires = tonumber(known[2]) or math.huge
	if not known[1] or expires < now * 1000 or cancelled and call('ZSCORE', KEYS[5], id) then
		gone[#gone + 1] = hash -- or it was: of a task without a hash nothing is left to lose
		return
	end
	local c = cost(tokens_of(known))
	local n = #ids + 1
	ids[n], leases[2 * n - 1], leases[2 * n] = id, now + tonumber(ARGV[3]), id
	answer[3 * n - 1], answer[3 * n], answer[3 * n + 1] = id, known[1], string.format('%.1f', c)
	work = work + c
end

-- A lane may be full of what nobody waits for any more; then it is looked at further, but not for long.
while #ids == 0 and #tail > 0 and #gone < 2000 do
	local at = #tail
	while at > 0 and (#ids == 0 or work < room) do -- one at least, so that this comes to an end
		look(tail[at])
		at = at - 1
	end
	seen = seen + #tail - at
	if #ids == 0 then
		tail = call('LRANGE', KEYS[1], -seen - most, -seen - 1)
	end
end
if #ids > 0 then
	call('LPUSH', KEYS[2], unpack(ids)) -- first, since a full Redis refuses this but not the next
	call('ZADD', KEYS[3], unpack(leases))
	for _, id in ipairs(ids) do
		call('HSET', ARGV[5] .. id, 'state', 'active', 'holder', ARGV[4])
	end
end
call('LTRIM', KEYS[1], 0, -seen - 1)
for _, hash in ipairs(gone) do
	call('DEL', hash)
end
if #gone > 0 then
	redis.pcall('HINCRBY', KEYS[6], 'expired', #gone)
	answer[1] = #gone
end
return answer
