// Tries subjects that are not the agent's own, one after the other. Reads what to try on stdin.

import { text } from "node:stream/consumers";
import { open } from "./client.mjs";

const [url, seedFile] = process.argv.slice(2);
const { publish, subscribe } = JSON.parse(await text(process.stdin));
const agent = await open(url, "team", "agent", seedFile);
const envelope = JSON.stringify({ specversion: "1.0", id: "forged", source: "x", type: "forged" });

const heard = [];
const ended = [];
for (const [subject, queue] of subscribe) {
  const callback = (error, message) =>
    error ? ended.push([error.operation, error.subject]) : heard.push(message.subject);
  agent.nc.subscribe(subject, { queue, callback });
}
await agent.refused(subscribe.length);
for (const subject of publish) {
  agent.nc.publish(subject, envelope);
}
await agent.refused(subscribe.length + publish.length);

// A request that is refused says so at once, not when its time is over.
const asked = await agent.nc
  .request("$JS.API.STREAM.INFO.LEDGER_0", "", { timeout: 10_000 })
  .then(() => "answered", (error) => error.cause?.name ?? error.name);

const after = await agent.publish({ id: "afterwards", type: "thing.happened" });
await agent.close();
console.log(
  JSON.stringify({ refusals: agent.refusals, heard, ended, asked, after: after.receipt }),
);
