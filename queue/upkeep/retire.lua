-- Forgets tasks that are done and were remembered for long enough, 100 at most, as the janitor in each asynq server
-- does.
--
-- KEYS  1 completed
-- ARGV  1 prefix of the task hashes, which share the slot of the keys
-- Returns how many went.
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, 100)
for _, id in ipairs(ids) do
	redis.call('ZREM', KEYS[1], id)
	if redis.call('HGET', ARGV[1] .. id, 'state') == 'completed' then
		redis.call('DEL', ARGV[1] .. id)
	end
end
return #ids
