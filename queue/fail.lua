-- Notes a worker's verdict on a task it has active. For a last one it writes the dead letter and marks the
-- task as buried: asynq's acknowledgement then removes the task, and if the worker dies before that, the
-- reaper does. So a letter and another run never come from one verdict.
--
-- KEYS  1 task hash  2 dead  3 causes  4 letter
-- ARGV  1 task id  2 'retry' or 'dead'  3 now, Unix ms  4 code  5 worker
--       for 'dead' also  6 message  7 attempts  8 kind  9 document  10 source
-- Returns 1, or 0 if the task was not active any more and nothing was done.
if redis.call('HGET', KEYS[1], 'state') ~= 'active' then
	return 0
end
redis.call('HSETNX', KEYS[1], 'first', ARGV[3])
redis.call('HSET', KEYS[1], 'code', ARGV[4], 'worker', ARGV[5])
if ARGV[2] == 'retry' then
	return 1
end
local known = redis.call('HMGET', KEYS[1], 'msg', 'first', 'crashes')
keep(KEYS[2], KEYS[3], KEYS[4], ARGV[1], {
	code = ARGV[4], worker = ARGV[5], message = ARGV[6], attempts = ARGV[7],
	kind = ARGV[8], document = ARGV[9], source = ARGV[10],
	first = known[2], last = ARGV[3], crashes = known[3] or 0, msg = known[1] or '',
})
redis.call('HSET', KEYS[1], 'buried', ARGV[3])
return 1
