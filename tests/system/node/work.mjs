// A whole turn of an agent: an event, a task, its result. Prints what it was told.

import { open } from "./client.mjs";

const [url, seedFile] = process.argv.slice(2);
const agent = await open(url, "team", "agent", seedFile);

const event = await agent.publish({ id: "node-event", type: "thing.happened", data: { by: "node" } });
const again = await agent.publish({ id: "node-event", type: "thing.happened", data: { by: "node" } });
const secret = await agent.publish({ id: "node-secret", type: "secret" });

const task = await agent.pull();
const confirmed = await task.settle("+ACK");
const { envelope, by, seq } = task.record;
const result = await agent.publish({
  id: "node-result",
  type: "work.done",
  kind: "result",
  to: by,
  causationid: envelope.id,
  answers: String(seq),
  correlationid: envelope.id,
  data: { doubled: 2 * envelope.data.number },
});

await agent.close();
console.log(
  JSON.stringify({
    receipts: [event, again, secret, result].map(({ receipt }) => receipt),
    accepted: [event, again, secret, result].map(({ accepted }) => [accepted.stream, accepted.seq]),
    task: { ...task.record, delivered: task.delivered, confirmed: confirmed.data.length },
    refusals: agent.refusals,
  }),
);
