-- Drops dead letters for good.
--
-- KEYS  1 dead  2 causes, then for each letter its hash
-- ARGV  for each letter its task id
-- Returns how many there were.
local dropped = 0
for i = 3, #KEYS do
	if forget(KEYS[1], KEYS[2], KEYS[i], ARGV[i - 2]) then
		dropped = dropped + 1
	end
end
return dropped
