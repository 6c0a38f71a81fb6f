-- Dead letters, put in front of every script that writes or removes one. A letter is a hash, a member of an
-- index by time, and one in the count of its cause; the three change together, here and nowhere else.

-- Removes the letter of an id; reports whether there was one.
local function forget(dead, causes, letter, id)
	if redis.call('ZREM', dead, id) + redis.call('EXISTS', letter) == 0 then
		return false
	end
	local code = redis.call('HGET', letter, 'code')
	redis.call('DEL', letter)
	if code and redis.call('HINCRBY', causes, code, -1) <= 0 then
		redis.call('HDEL', causes, code)
	end
	return true
end

-- Writes the letter of an id, in place of an earlier one. l: code, message, first, last (Unix ms),
-- attempts, crashes, worker, kind, document, source, msg.
local function keep(dead, causes, letter, id, l)
	forget(dead, causes, letter, id)
	redis.call('ZADD', dead, l.last, id)
	redis.call('HINCRBY', causes, l.code, 1)
	for field, value in pairs(l) do
		redis.call('HSET', letter, field, value)
	end
end

