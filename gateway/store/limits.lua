-- One batch of a replica: what it holds, what it settles, what its requests want; all of it at one moment.
-- The arithmetic is that of gateway/buckets.py, in the same order, so that both come to the same numbers.
--
-- KEYS[1]: the replica's last batch; the others: accounts, named below by their place in KEYS.
-- ARGV[1]: msgpack of {number, now (below 0: the server's clock), lease in seconds, replica,
--   places: {{account, count}, …}, settlements: {{account, rate, given back, taken at}, …},
--   requests: {{{account, amount, rate, burst}, …}, …}}
-- Answers msgpack of {now, {{granted, wait, {used, …}}, …}}.

local TOLERANCE, MARKS, KEPT = 1e-9, 32, 24
local LAST_S, LONGEST_MS = 3600, 1e14
local number, now, lease, replica, places, settlements, requests = unpack(cmsgpack.unpack(ARGV[1]))

-- A batch is sent again when its answer was lost with the connection; then it is answered as it was the first time.
local last = redis.call('HMGET', KEYS[1], 'number', 'answer')
local done = tonumber(last[1]) or 0
if done == number then return last[2] end
if done > number then return redis.error_reply('STALE a later batch has been here') end

if now < 0 then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end

-- rates: {rate, at, used, times, lows}, see Account in gateway/buckets.py; times and lows begin at 1 here ------------

local accounts = {}

local function wipe(account, low)
  local times, lows = account.times, account.lows
  local first = #lows
  while first > 1 and lows[first - 1] >= low do first = first - 1 end
  if low > 0 then
    lows[first] = low
    first = first + 1
  end
  for index = #lows, first, -1 do times[index], lows[index] = nil, nil end
end

local function level(index, rate)
  local account = accounts[index]
  if not account then
    local kept = redis.call('HMGET', KEYS[index], 'used', 'at', 'marks')
    account = {at = tonumber(kept[2]) or now, used = tonumber(kept[1]) or 0, times = {}, lows = {}}
    if kept[3] then account.times, account.lows = unpack(cmsgpack.unpack(kept[3])) end
    accounts[index] = account
  end
  account.rate = rate
  local passed = now - account.at
  if passed > 0 then
    account.at = now
    account.used = math.max(0, account.used - rate * passed)
    local lows = account.lows
    if #lows > 0 and lows[#lows] > account.used then wipe(account, account.used) end
  end
  return account
end

local function thin(account)
  local times, lows, kept = account.times, account.lows, {}
  for index, low in ipairs(lows) do
    if #kept > 1 and low <= 2 * lows[kept[#kept - 1]] then kept[#kept] = nil end
    kept[#kept + 1] = index
  end
  account.times, account.lows = {}, {}
  for place = math.max(1, #kept - KEPT + 1), #kept do
    account.times[#account.times + 1] = times[kept[place]]
    account.lows[#account.lows + 1] = lows[kept[place]]
  end
end

local function charge(account, amount)
  account.used, account.changed = account.used + amount, true
  local times, lows = account.times, account.lows
  if #times > 0 and times[#times] >= account.at then
    lows[#lows] = account.used
  else
    times[#times + 1], lows[#lows + 1] = account.at, account.used
    if #times > MARKS then thin(account) end
  end
end

local function settle(account, given_back, taken_at)
  if given_back <= 0 then
    account.used, account.changed = math.max(0, account.used - given_back), true
    return
  end
  local times, lows = account.times, account.lows
  local first = #times
  while first > 0 and times[first] > taken_at do first = first - 1 end
  if first == 0 then return end
  local back = math.min(given_back, lows[first])
  account.used, account.changed = math.max(0, account.used - back), true
  for index = first, #lows do lows[index] = math.max(0, lows[index] - back) end
  local low, start = lows[first], first
  while start > 1 and lows[start - 1] >= low do start = start - 1 end
  if low <= 0 then
    start = 1
  else
    lows[start] = low
    start = start + 1
  end
  local keep_times, keep_lows = {}, {}
  for index = 1, #lows do
    if index < start or index > first then
      keep_times[#keep_times + 1], keep_lows[#keep_lows + 1] = times[index], lows[index]
    end
  end
  account.times, account.lows = keep_times, keep_lows
end

-- places: a field for each replica, "count expiry" -----------------------------------------------------------------

local held = {}

local function places_of(index)
  local all = held[index]
  if not all then
    all = {own = 0, others = 0, gone = {}}
    local kept = redis.call('HGETALL', KEYS[index])
    for field = 1, #kept, 2 do
      local count, expiry = string.match(kept[field + 1], '^(%S+) (%S+)$')
      if tonumber(expiry) <= now then
        all.gone[#all.gone + 1] = kept[field]
      elseif kept[field] == replica then
        all.own = tonumber(count)
      else
        all.others = all.others + tonumber(count)
      end
    end
    held[index] = all
  end
  return all
end

-- the batch --------------------------------------------------------------------------------------------------------

for _, each in ipairs(places) do
  local all = places_of(each[1])
  all.own, all.changed = each[2], true
end
for _, each in ipairs(settlements) do settle(level(each[1], each[2]), each[3], each[4]) end

local function answered(demands)
  local used, longest = {}, 0
  for order, demand in ipairs(demands) do
    local index, amount, rate, burst = unpack(demand)
    if rate == 0 then
      local all = places_of(index)
      used[order] = all.own + all.others
    else
      used[order] = level(index, rate).used
    end
    local excess = amount >= burst and used[order] or used[order] + amount - burst
    if excess > TOLERANCE * burst then longest = math.max(longest, rate == 0 and 1 or excess / rate) end
  end
  if longest > 0 then return {false, longest, used} end
  for order, demand in ipairs(demands) do
    local index, amount, rate = unpack(demand)
    used[order] = used[order] + amount
    if rate == 0 then
      local all = places_of(index)
      all.own, all.changed = all.own + amount, true
    else
      charge(level(index, rate), amount)
    end
  end
  return {true, 0, used}
end

local answers = {}
for order, demands in ipairs(requests) do answers[order] = answered(demands) end

-- What has changed is written once, and lives as long as it says anything.
for index, account in pairs(accounts) do
  if account.changed and account.used <= 0 then
    redis.call('DEL', KEYS[index])
  elseif account.changed then
    redis.call('HSET', KEYS[index], 'used', string.format('%.17g', account.used), 'at', string.format('%.17g', account.at),
      'marks', cmsgpack.pack({account.times, account.lows}))
    local left_ms = (account.used / account.rate + math.max(0, account.at - now)) * 1000 + 1000
    redis.call('PEXPIRE', KEYS[index], string.format('%.0f', math.min(left_ms, LONGEST_MS)))
  end
end
for index, all in pairs(held) do
  if #all.gone > 0 then redis.call('HDEL', KEYS[index], unpack(all.gone)) end
  if all.changed and all.own <= 0 then
    redis.call('HDEL', KEYS[index], replica)
  elseif all.changed then
    redis.call('HSET', KEYS[index], replica, string.format('%.17g %.17g', all.own, now + lease))
    redis.call('PEXPIRE', KEYS[index], math.ceil(lease * 1000))
  end
end

local answer = cmsgpack.pack({now, answers})
redis.call('HSET', KEYS[1], 'number', number, 'answer', answer)
redis.call('EXPIRE', KEYS[1], LAST_S)
return answer
