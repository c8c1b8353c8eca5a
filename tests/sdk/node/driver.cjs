// Calls of the official OpenAI Node SDK, told on stdin, a JSON object a line, and what came of each on stdout.
//
//   node driver.cjs DIRECTORY PACKAGE     the directory that holds node_modules, and the SDK's name in it
//
// {client, call, arguments, take, …} gives {value or error, events, attempts, …}, one after another. It knows nothing of
// what is right: that is the tests' part.
"use strict";

const { subscribe } = require("node:diagnostics_channel");
const { createRequire } = require("node:module");
const { createInterface } = require("node:readline");

const [directory, name] = process.argv.slice(2);
const load = createRequire(`${directory}/`);
const sdk = load(name);
const { zodResponseFormat, zodTextFormat } = load(`${name}/helpers/zod`);
const { z } = load("zod");

const City = z.object({ city: z.string(), size: z.number().int().min(0) });
const FORMATS = { chat: zodResponseFormat, text: zodTextFormat };

// What JSON cannot hold is named: {"$city": "chat"} becomes the SDK's own object, {"$signal": 200} an abort in 200 ms,
// and a tool's function with $answers one that can be called and says that.
function revive(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(revive);
  if (value.$city) return FORMATS[value.$city](City, "city");
  if (value.$signal) return AbortSignal.timeout(value.$signal);
  if (value.$answers) return { ...value, function: () => value.$answers, parse: JSON.parse };
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, revive(inner)]));
}

function told(error) {
  const kinds = [];
  for (let kind = error.constructor; kind && kind.name; kind = Object.getPrototypeOf(kind)) kinds.push(kind.name);
  const { status, code, param, type, message, requestID } = error;
  return { kinds, status, code, param, type, message, request_id: requestID };
}

const TAKE = {
  async value(pending) {
    const { data, response, request_id } = await pending.withResponse();
    return { value: data, request_id, headers: Object.fromEntries(response.headers) };
  },
  async page(pending) {
    const items = [];
    for await (const item of pending) items.push(item);
    return { value: items };
  },
  // A stream, left after so many events by what leaving a loop does, or told to stop by its controller.
  async events(pending, seen, { leave, abort }) {
    const stream = await pending;
    for await (const event of stream) {
      seen.events.push(event);
      if (seen.events.length === leave) break;
      if (seen.events.length === abort) stream.controller.abort();
    }
    return {};
  },
  // The SDK's accumulating helpers for chats: what they emitted, and what they put together.
  async chatHelper(runner, seen) {
    const counts = {};
    for (const event of ["content", "content.done", "tool_calls.function.arguments.done", "error", "end"]) {
      runner.on(event, () => { counts[event] = (counts[event] ?? 0) + 1; });
    }
    for await (const chunk of runner) seen.events.push(chunk);
    return { value: await runner.finalChatCompletion(), usage: await runner.totalUsage(), counts };
  },
  async responseHelper(runner, seen) {
    for await (const event of runner) seen.events.push(event);
    return { value: await runner.finalResponse() };
  },
  // Tools that are functions of this program: called, their results sent back, until the model is done.
  async tools(runner) {
    await runner.done();
    return { value: runner.messages };
  },
};

let connections = 0;
subscribe("undici:client:connected", () => { connections += 1; });

async function perform({ client, call, arguments: given, take, ...how }) {
  const seen = { events: [], attempts: 0, retry_counts: [] };
  const counting = (url, init) => {
    seen.attempts += 1;
    seen.retry_counts.push(new Headers(init.headers).get("x-stainless-retry-count"));
    return fetch(url, init);
  };
  const path = call.split(".");
  const method = path.pop();
  const owner = path.reduce((at, part) => at[part], new sdk.OpenAI({ ...client, fetch: counting }));
  const before = connections;
  try {
    const came = await TAKE[take](owner[method](...revive(given)), seen, how);
    return { ...seen, connections: connections - before, ...came };
  } catch (error) {
    return { ...seen, connections: connections - before, error: told(error) };
  }
}

// The same call so many times at once; of each, its events.
async function performTogether({ times, ...job }) {
  const all = await Promise.all(Array.from({ length: times }, () => perform(job)));
  return all.find((one) => one.error) ?? { events: all.map((one) => one.events) };
}

async function main() {
  process.stdout.write(`${JSON.stringify({ node: process.version, sdk: load(`${name}/version`).VERSION })}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    const job = JSON.parse(line);
    const came = await (job.times ? performTogether(job) : perform(job));
    process.stdout.write(`${JSON.stringify(came)}\n`);
  }
}

main();
