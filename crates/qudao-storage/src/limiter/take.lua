-- Several buckets of the generic cell rate algorithm, charged together or not at all.
--
-- KEYS: the buckets, all in one hash slot. ARGV: how many calls the caller would gladly be charged for
-- at once, then for each bucket the charge of a call and its capacity, both in microseconds. A key
-- holds the time at which its bucket will be empty of debt; the debt is what is left until then. A
-- charge below zero gives back and is never refused.
--
-- More than one call is charged only while it leaves the others fifteen sixteenths of what is there.
--
-- Answers {0, calls, the debt of each bucket afterwards}, or where not even one call is allowed {the
-- bucket to wait for, how long, the debt of each bucket}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = redis.call('MGET', unpack(KEYS))
local calls = tonumber(ARGV[1])
local answer = {0, 0}
for i = 1, #KEYS do
  local charge, capacity = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  -- More than the capacity is owed only after a limit was lowered or the clock was set back.
  local debt = math.min(math.max((tonumber(kept[i] or now) or now) - now, 0), capacity)
  local wait = debt + charge - capacity
  if charge > 0 then
    calls = math.min(calls, math.max(math.floor((capacity - debt) / charge / 16), 1))
    if wait > answer[2] then
      answer[1], answer[2] = i, wait
    end
  end
  answer[i + 2] = debt
end
if answer[1] ~= 0 then
  return answer
end
answer[2] = calls
for i = 1, #KEYS do
  local debt = math.max(answer[i + 2] + calls * tonumber(ARGV[2 * i]), 0)
  if debt > 0 then
    redis.call('SET', KEYS[i], string.format('%.0f', now + debt), 'PX', math.ceil(debt / 1000) + 1)
  else
    redis.call('DEL', KEYS[i])
  end
  answer[i + 2] = debt
end
return answer
