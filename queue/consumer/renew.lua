-- Renews leases, of those tasks whose holder still is who it was. A lease that lapsed meanwhile is renewed too: as
-- long as nobody has taken the task back, nobody else has it.
--
-- KEYS  1 active  2 lease
-- ARGV  1 how long the leases last, seconds  2 prefix of the task hashes  then for each task its id and its holder
-- Returns the numbers of the tasks that are lost, from 1.
local time = redis.call('TIME')
local until_ = tonumber(time[1]) + tonumber(time[2]) / 1e6 + tonumber(ARGV[1])
local leases, lost = {}, {}
for i = 3, #ARGV, 2 do
	if redis.pcall('HGET', ARGV[2] .. ARGV[i], 'holder') == ARGV[i + 1] then
		leases[#leases + 1] = until_
		leases[#leases + 1] = ARGV[i]
	else
		lost[#lost + 1] = (i - 1) / 2
	end
end
if #leases > 0 then
	redis.call('PERSIST', KEYS[2]) -- a write that a full Redis allows, and with it what follows
	redis.call('ZADD', KEYS[2], unpack(leases))
end
return lost
