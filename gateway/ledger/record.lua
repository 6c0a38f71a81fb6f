-- Keeps answers of lines, each unless its line has one, and counts them.
-- KEYS[1] lines  KEYS[2] state  ARGV[1] Unix ms at which the lines expire, then number and answer of each line
-- Returns how many were new.
local new, failed = 0, 0
for i = 2, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) == 1 then
    new = new + 1
    if ARGV[i + 1]:sub(1, 1) == 'e' then
      failed = failed + 1
    end
  end
end
if new > failed then
  redis.call('HINCRBY', KEYS[2], 'done', new - failed)
end
if failed > 0 then
  redis.call('HINCRBY', KEYS[2], 'failed', failed)
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return new
