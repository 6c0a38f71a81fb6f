-- Claims a slot of a job.
-- KEYS[1] job  KEYS[2] slots  KEYS[3] lease  KEYS[4] pause
-- ARGV[1] slot name      ARGV[2] its beginning, ms  ARGV[3] its end, ms  ARGV[4] token  ARGV[5] lease, ms
-- ARGV[6] how long slots are remembered, ms  ARGV[7] '1' by hand  ARGV[8] attempts allowed
-- Returns {answer, now ms, slot's place, attempt, last_ok ms, lease left ms, running slot, reason of a pause}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function ms(n) return string.format('%.0f', n) end

local job = redis.call('HMGET', KEYS[1], 'clock', 'epoch', 'running', 'attempts', 'last_ok')
local clock, epoch = tonumber(job[1] or '0'), tonumber(job[2] or '0')
if now < clock - 60000 then
  -- Redis's clock went back. Slots by the old names are new ones from here on; a lease of the time before
  -- would last that much longer, and its holder hears that it is lost.
  epoch = epoch + 1
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('DEL', KEYS[3])
end
if now > clock or now < clock - 60000 then
  redis.call('HSET', KEYS[1], 'clock', ms(now))
end

local place = ARGV[1]
if epoch > 0 then place = place .. '@' .. string.format('%d', epoch) end
local last = job[5] or '0'
local function answer(word, attempt, left, why)
  return {word, ms(now), place, attempt or 0, last, left or 0, job[3] or '', why or ''}
end

local byhand = ARGV[7] == '1'
if not byhand then
  if now < tonumber(ARGV[2]) or now >= tonumber(ARGV[3]) then return answer('elsewhen') end
  if redis.call('ZSCORE', KEYS[2], place) then return answer('done') end
  local paused = redis.call('HGET', KEYS[4], 'reason')
  if paused then return answer('paused', 0, 0, paused) end
end
local left = redis.call('PTTL', KEYS[3])
if left > 0 then return answer('busy', 0, left) end

local attempt = 1
if job[3] == place then attempt = tonumber(job[4] or '0') + 1 end
if not byhand and attempt > tonumber(ARGV[8]) then return answer('exhausted', attempt) end
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
redis.call('HSET', KEYS[1], 'running', place, 'attempts', attempt, 'begun', ms(now))
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms(now - tonumber(ARGV[6])))
return answer('granted', attempt)
