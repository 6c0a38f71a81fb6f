-- Makes a space the one an alias writes.
-- KEYS[1] space-of-record
-- ARGV[1] space  ARGV[2] 'keep' to refuse if the alias writes another, 'reembed' to take over
-- Returns '' if claimed, the space-of-record if refused.
local claimed = redis.call('GET', KEYS[1])
if claimed and claimed ~= ARGV[1] and ARGV[2] ~= 'reembed' then
  return claimed
end
if claimed ~= ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1])
end
return ''
