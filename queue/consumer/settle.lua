-- Settles what became of tasks of one lane, each if its holder still is who it was: whoever was away for longer than
-- its lease changes nothing here. What asynq counts is counted as asynq does.
--
-- KEYS  1 active  2 lease  3 pending  4 retry  5 completed  6 processed  7 processed today  8 failed
--       9 failed today  10 dead  11 causes  12 cancelled
-- ARGV  1 now, Unix milliseconds  2 when the counts of today lapse, Unix seconds  3 prefix of the task hashes
--       4 prefix of the letters, then for each task its id, its holder, a word, and the arguments of the word:
--   done     it may go; unique lock of asynq's, '' for none
--   keep     it is done and remembered: lock, when that lapses (Unix seconds), message
--   revoke   it was cancelled and may go, unless somebody has wanted it again since
--   requeue  it goes back to the head of its lane
--   retry    it waits: until when (Unix seconds), message, 1 if it has failed, code, worker
--   dead     it will not run again: lock, code, worker, message, attempts, kind, document, source
-- Returns for each task 1, or 0 if it is not the holder's any more.
local call = redis.call
local active, lease, now = KEYS[1], KEYS[2], ARGV[1]
local answers, released, gone = {}, {}, {}
local processed, failed = 0, 0

local function unlock(key, id)
	if key ~= '' and call('GET', key) == id then
		call('DEL', key)
	end
end

local function requeue(hash, id)
	call('RPUSH', KEYS[3], id)
	call('HDEL', hash, 'holder')
	call('HSET', hash, 'state', 'pending', 'pending_since', now .. '000000')
end

-- Each takes the hash, the id and the place of its first argument, and returns how many arguments it has.
local words = {}

function words.done(hash, id, at)
	processed = processed + 1
	gone[#gone + 1] = hash
	unlock(ARGV[at], id)
	return 1
end

function words.keep(hash, id, at)
	processed = processed + 1
	unlock(ARGV[at], id)
	call('ZADD', KEYS[5], ARGV[at + 1], id)
	call('HDEL', hash, 'holder')
	call('HSET', hash, 'msg', ARGV[at + 2], 'state', 'completed')
	return 3
end

function words.revoke(hash, id)
	if call('ZSCORE', KEYS[12], id) then
		processed = processed + 1
		gone[#gone + 1] = hash
	else
		requeue(hash, id)
	end
	return 0
end

function words.requeue(hash, id)
	requeue(hash, id)
	return 0
end

function words.retry(hash, id, at)
	call('ZADD', KEYS[4], ARGV[at], id)
	call('HDEL', hash, 'holder')
	call('HSET', hash, 'msg', ARGV[at + 1], 'state', 'retry')
	if ARGV[at + 2] == '1' then
		processed, failed = processed + 1, failed + 1
		call('HSETNX', hash, 'first', now)
		call('HSET', hash, 'code', ARGV[at + 3], 'worker', ARGV[at + 4])
	end
	return 5
end

function words.dead(hash, id, at)
	processed, failed = processed + 1, failed + 1
	unlock(ARGV[at], id)
	local known = call('HMGET', hash, 'msg', 'first', 'crashes')
	keep(KEYS[10], KEYS[11], ARGV[4] .. id, id, {
		code = ARGV[at + 1], worker = ARGV[at + 2], message = ARGV[at + 3], attempts = ARGV[at + 4],
		kind = ARGV[at + 5], document = ARGV[at + 6], source = ARGV[at + 7],
		first = known[2] or now, last = now, crashes = known[3] or 0, msg = known[1] or '',
	})
	gone[#gone + 1] = hash
	return 8
end

local arguments = { done = 1, keep = 3, revoke = 0, requeue = 0, retry = 5, dead = 8 }

local i = 5
while i <= #ARGV do
	local id, word = ARGV[i], ARGV[i + 2]
	local hash = ARGV[3] .. id
	-- An id is in the list once, and the oldest are at its end.
	local ours = redis.pcall('HGET', hash, 'holder') == ARGV[i + 1] and call('LREM', active, -1, id) == 1
	if ours then
		released[#released + 1] = id
		words[word](hash, id, i + 3)
	end
	answers[#answers + 1] = ours and 1 or 0
	i = i + 3 + arguments[word]
end
if #released > 0 then
	call('ZREM', lease, unpack(released))
end
if #gone > 0 then
	call('DEL', unpack(gone))
end

local function count(total, today, n)
	if n == 0 then
		return
	end
	redis.pcall('INCRBY', total, n) -- what is no number any more stays as it is
	if redis.pcall('INCRBY', today, n) == n then
		call('EXPIREAT', today, ARGV[2])
	end
end
count(KEYS[6], KEYS[7], processed)
count(KEYS[8], KEYS[9], failed)
return answers
