-- Takes an active task out of its lane, because it lives on in another.
--
-- KEYS  1 active  2 lease  3 task hash
-- ARGV  1 task id
-- Returns 1, or 0 if the task was not active any more.
if redis.call('LREM', KEYS[1], 0, ARGV[1]) + redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
	return 0
end
redis.call('DEL', KEYS[3])
return 1
