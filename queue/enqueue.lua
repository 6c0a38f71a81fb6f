-- Puts tasks of one lane there, whatever became of earlier tasks of the same ids (T16). Equal in effect to
-- asynq's own enqueue where there is no earlier one.
--
-- KEYS  1 pending  2 active  3 lease  4 scheduled  5 retry  6 archived  7 completed  8 dead  9 causes
--       10 cancelled  11 counts
-- ARGV  1 now, Unix nanoseconds  2 prefix of the letters, which share the slot of the keys
--       3 how many may wait, 0 for any number  4 prefix of the task hashes, likewise
--       5 '1' if all of them enter or none, else '0'
--       then for each task its id, its message, its version ('0' for none), when it expires (Unix ms, '0' for
--       never), and its text's estimated tokens ('0' for unknown)
-- Returns -1 and how many wait, if there is no room for all and all or none was asked for; then nothing was done.
-- Else the number of a task, from 0, and a word, for each task but those of the first word:
--   enqueued  it is new
--   attached  it waits or runs already; while it waits, a newer version takes the place of its message
--   running   it runs already in an older version: the caller gives the newer one an id of its own
--   done      it was done a short while ago and is still remembered
--   rerun     it had failed for good and gets a new life; its dead letter is gone
--   full      there is no room for it, nothing was done
--   repaired  its hash was left over without a place in any list, and was replaced
local call = redis.call
local fresh = {} -- ids of this call, which are in no list until the end

-- Whether a list holds the id. LPOS reads the whole list, so a long one is trusted: fsck looks at those.
local function listed(key, id)
	return call('LLEN', key) > 1000 or call('LPOS', key, id)
end

-- Whether version a is above b. They are 64-bit numbers, which Lua's can't hold, so their digits are compared.
local function above(a, b)
	b = b or '0'
	if #a ~= #b then
		return #a > #b
	end
	return a > b
end

-- What is known of a task beside its message, as fields of its hash.
local function known_of(version, expires, tokens)
	local fields = {}
	for name, value in pairs({ version = version, expires = expires, tokens = tokens }) do
		if value ~= '0' then
			fields[#fields + 1] = name
			fields[#fields + 1] = value
		end
	end
	return fields
end

-- A newer version of a task that waits: the last one that a producer sent must be the last one stored, also
-- if another text of the document was sent in between.
local function renew(hash, msg, version, expires, tokens)
	call('HDEL', hash, 'expires', 'tokens')
	call('HSET', hash, 'msg', msg, unpack(known_of(version, expires, tokens)))
	return 'attached'
end

-- What to do about a hash that exists already. 'rerun', 'repaired' and 'enqueued' put another in its place.
local function judge(hash, id, msg, version, expires, tokens)
	local known = call('HMGET', hash, 'state', 'version')
	local state, newer = known[1], above(version, known[2])
	if fresh[id] then
		return newer and renew(hash, msg, version, expires, tokens) or 'attached'
	end
	if call('ZSCORE', KEYS[6], id) then
		-- Also when the state says otherwise: asynq's archive can fail half-way (T6).
		call('ZREM', KEYS[6], id)
		return 'rerun'
	end
	if state == 'completed' and call('ZSCORE', KEYS[7], id) then
		if newer then
			call('ZREM', KEYS[7], id)
			return 'enqueued'
		end
		return 'done'
	end
	if state == 'scheduled' and call('ZSCORE', KEYS[4], id)
		or state == 'retry' and call('ZSCORE', KEYS[5], id)
		or state == 'pending' and listed(KEYS[1], id) then
		return newer and renew(hash, msg, version, expires, tokens) or 'attached'
	end
	if state == 'active' and (call('ZSCORE', KEYS[3], id) or listed(KEYS[2], id)) then
		return newer and 'running' or 'attached'
	end
	return 'repaired'
end

-- Puts a task into the lane under a hash that is free.
local letters = call('EXISTS', KEYS[8]) == 1 -- saves a look per task
local ids, count = {}, 0
local function put(hash, id, msg, version, expires, tokens)
	call('HSET', hash, 'msg', msg, 'state', 'pending', 'pending_since', ARGV[1], unpack(known_of(version, expires, tokens)))
	count = count + 1
	fresh[id], ids[count] = true, id
	return letters and forget(KEYS[8], KEYS[9], ARGV[2] .. id, id)
end

local puts = { enqueued = true, rerun = true, repaired = true } -- answers that write the task
local answers = {}
local cancelled = call('EXISTS', KEYS[10]) == 1
local room = tonumber(ARGV[3])
room = room > 0 and room - call('LLEN', KEYS[1]) or math.huge
local attached = 0
-- Nearly always all are new. One look at all of them then saves a look at each.
local hashes = {}
for i = 6, #ARGV, 5 do
	hashes[#hashes + 1] = ARGV[4] .. ARGV[i]
end
local there = #hashes > 0 and call('EXISTS', unpack(hashes)) or 0
if ARGV[5] == '1' and #hashes - there > room then
	return { -1, call('LLEN', KEYS[1]) }
end
local known = there > 0
for i = 6, #ARGV, 5 do
	local id, msg, version, expires, tokens = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
	local hash = hashes[(i - 1) / 5]
	local answer = 'enqueued'
	if fresh[id] or known and call('EXISTS', hash) == 1 then
		answer = judge(hash, id, msg, version, expires, tokens)
		if puts[answer] then
			call('DEL', hash)
		end
	elseif count >= room then
		answer = 'full'
	end
	if puts[answer] and put(hash, id, msg, version, expires, tokens) then
		answer = 'rerun'
	end
	if cancelled and answer ~= 'full' then
		call('ZREM', KEYS[10], id) -- somebody wants it again
	end
	if answer == 'attached' or answer == 'done' then
		attached = attached + 1
	end
	if answer ~= 'enqueued' then
		answers[#answers + 1] = (i - 6) / 5
		answers[#answers + 1] = answer
	end
end
if attached > 0 then
	redis.pcall('HINCRBY', KEYS[11], 'duplicates', attached) -- a count that is none keeps nobody out
end
if count > 0 then
	call('LPUSH', KEYS[1], unpack(ids))
	redis.pcall('PUBLISH', KEYS[1], '') -- wakes the servers; who may not publish is heard a little later
end
return answers
