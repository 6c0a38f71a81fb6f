-- Counts what a caller takes in a minute and a day, unless it would go beyond a limit: then nothing is counted.
-- KEYS[1] counts of the minute  KEYS[2] counts of the day
-- ARGV[1] caller, then requests, texts and tokens that are taken, then their limits in a minute, then those in a day (0 is
-- none)
-- Returns '' or what would go beyond its limit, as 'tokens/minute'.
local names, spans = {'requests', 'texts', 'tokens'}, {'minute', 'day'}
for s = 1, 2 do
  for i = 1, 3 do
    local limit, amount = tonumber(ARGV[1 + 3 * s + i]), tonumber(ARGV[1 + i])
    if limit > 0 and amount > 0 then
      local used = tonumber(redis.call('HGET', KEYS[s], ARGV[1] .. ':' .. names[i]) or 0)
      if used + amount > limit then
        return names[i] .. '/' .. spans[s]
      end
    end
  end
end
local lives = {120, 172800}
for s = 1, 2 do
  for i = 1, 3 do
    if tonumber(ARGV[1 + i]) ~= 0 then
      redis.call('HINCRBY', KEYS[s], ARGV[1] .. ':' .. names[i], ARGV[1 + i])
    end
  end
  redis.call('EXPIRE', KEYS[s], lives[s])
end
return ''
