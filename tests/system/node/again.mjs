// Gives a task back twice, once at once and once after a pause, then settles it.

import { open } from "./client.mjs";

const PAUSE = 0.5;
const [url, seedFile] = process.argv.slice(2);
const agent = await open(url, "team", "agent", seedFile);

const first = await agent.pull();
first.say("-NAK");
const second = await agent.pull();
const given = performance.now();
second.say(`-NAK {"delay": ${PAUSE * 1_000_000_000}}`);
const third = await agent.pull();
const paused = (performance.now() - given) / 1000;
await third.settle("+ACK");

await agent.close();
console.log(
  JSON.stringify({
    deliveries: [first, second, third].map(({ record, delivered }) => [
      record.envelope.id,
      record.seq,
      delivered,
    ]),
    waited: paused >= PAUSE * 0.9,
    refusals: agent.refusals,
  }),
);
