-- Ends an active task: as dead, or because it lives on in another lane.
--
-- KEYS  1 active  2 lease  3 archived  4 task hash
-- ARGV  1 task id  2 message with the cause, or '' to forget the task  3 now, Unix seconds
-- Returns 1, or 0 if the task was not active any more.
if redis.call('LREM', KEYS[1], 0, ARGV[1]) + redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
	return 0
end
if ARGV[2] == '' then
	redis.call('DEL', KEYS[4])
else
	redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
	redis.call('HSET', KEYS[4], 'msg', ARGV[2], 'state', 'archived')
end
return 1
