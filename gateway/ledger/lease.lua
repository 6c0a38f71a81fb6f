-- Gives or renews a lease.
-- KEYS[1] lease  ARGV[1] who wants it  ARGV[2] for how many ms
-- Returns 1 if it is theirs, 0 if it is somebody else's.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
