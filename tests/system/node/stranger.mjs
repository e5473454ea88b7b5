// Tries to be team.agent with whatever seed it is given.

import { open } from "./client.mjs";

const [url, seedFile] = process.argv.slice(2);
let agent;
let outcome = "published";
try {
  agent = await open(url, "team", "agent", seedFile);
  await agent.publish({ type: "thing.happened" });
} catch (error) {
  outcome = error.cause?.name ?? error.name;
}
await agent?.refused(3); // what it listened on, where it wanted the answer, what it published on
await agent?.close();
console.log(JSON.stringify({ connected: agent !== undefined, outcome, refusals: agent?.refusals }));
