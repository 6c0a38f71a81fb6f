-- Gives a task in quarantine the crashes that brought it there. A worker may have finished it already; writing to
-- its hash would make a phantom of it (T30).
--
-- KEYS  1 task hash
-- ARGV  1 crashes
-- Returns 1, or 0 if the task is not there any more.
if redis.call('EXISTS', KEYS[1]) == 0 then
	return 0
end
redis.call('HSET', KEYS[1], 'crashes', ARGV[1])
return 1
