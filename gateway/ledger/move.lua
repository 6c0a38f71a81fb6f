-- Moves a batch to another status, if it is in one from which it may go there.
-- KEYS[1] state  ARGV[1] how many statuses follow, then these, then fields and values to be set
-- Returns 1 if it was moved, else 0.
local status = redis.call('HGET', KEYS[1], 'status')
local n = tonumber(ARGV[1])
for i = 2, n + 1 do
  if status == ARGV[i] then
    redis.call('HSET', KEYS[1], unpack(ARGV, n + 2))
    return 1
  end
end
return 0
