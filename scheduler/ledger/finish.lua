-- Ends a run.
-- KEYS[1] job  KEYS[2] slots  KEYS[3] lease  KEYS[4] pause  KEYS[5] runs
-- ARGV[1] token    ARGV[2] slot's place  ARGV[3] its beginning, ms
-- ARGV[4] outcome: 'done', 'failed', 'paused' or 'released'
-- ARGV[5] report, JSON  ARGV[6] error  ARGV[7] reason of a pause  ARGV[8] its end, Unix ms, '0' for none
-- ARGV[9] the run for the history, JSON  ARGV[10] how long that is kept, ms
-- Returns 1, or 0 if the lease is another's or nobody's; nothing is written then.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[3])
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local outcome = ARGV[4]
local begun = redis.call('HGET', KEYS[1], 'begun') or now
redis.call('ZADD', KEYS[5], now, begun .. ' ' .. ARGV[9])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', string.format('%.0f', tonumber(now) - tonumber(ARGV[10])))
if outcome == 'released' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
  return 1
end
redis.call('HSET', KEYS[1], 'ended', now, 'report', ARGV[5])
if outcome == 'done' then
  redis.call('ZADD', KEYS[2], now, ARGV[2])
  redis.call('HDEL', KEYS[1], 'running', 'attempts', 'failures')
  if tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[1], 'last_ok') or '0') then
    redis.call('HSET', KEYS[1], 'last_ok', ARGV[3])
  end
  return 1
end
redis.call('HSET', KEYS[1], 'error', ARGV[6], 'error_at', now)
redis.call('HINCRBY', KEYS[1], 'failures', 1)
if outcome == 'paused' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1) -- it was the source's fault, and the slot may go on after
  redis.call('HSET', KEYS[4], 'reason', ARGV[7], 'since', now, 'until', ARGV[8])
  if ARGV[8] ~= '0' then redis.call('PEXPIREAT', KEYS[4], ARGV[8]) else redis.call('PERSIST', KEYS[4]) end
end
return 1
