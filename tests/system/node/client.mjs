// An agent of the bus that has nothing but a NATS client, its seed and the documented subjects.

import { readFile } from "node:fs/promises";
import { connect, createInbox, nkeyAuthenticator, nuid } from "@nats-io/transport-node";

const SECOND = 1_000_000_000; // JetStream counts in nanoseconds
const PATIENCE = 10_000;
const DEADLINE = 50_000;

setTimeout(() => {
  console.error(`not done after ${DEADLINE} ms`);
  process.exit(3);
}, DEADLINE).unref();

/** Connects with the seed that a file holds; it never stands in the arguments of the process. */
export async function open(url, team, name, seedFile) {
  const seed = new TextEncoder().encode((await readFile(seedFile, "ascii")).trim());
  const nc = await connect({
    servers: url,
    authenticator: nkeyAuthenticator(seed),
    inboxPrefix: `_INBOX_${team}_${name}`,
    name: `${team}.${name}`,
    reconnect: false,
    timeout: PATIENCE,
  });
  return new Agent(nc, team, name);
}

class Agent {
  constructor(nc, team, name) {
    this.nc = nc;
    this.own = { in: `in.${team}.${name}`, receipt: `receipt.${team}.${name}` };
    this.inbox = `_INBOX_${team}_${name}`;
    this.next = `$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.${team}_${name}`;
    this.waiting = new Map();
    this.refusals = [];
    this.onRefusal = () => {};
    nc.subscribe(this.own.receipt, { callback: (error, message) => this.#hear(error, message) });
    this.#watch();
  }

  /** Publishes an envelope; the ingress confirms it, then the gateway's verdict comes. */
  async publish(envelope) {
    const whole = { specversion: "1.0", id: nuid.next(), source: "node", ...envelope };
    const verdict = new Promise((resolve) => this.waiting.set(whole.id, resolve));
    const answer = await this.nc.request(this.own.in, JSON.stringify(whole), { timeout: PATIENCE });
    const accepted = answer.json();
    const receipt = await within(verdict, `a receipt for ${whole.id}`);
    return { accepted, receipt };
  }

  /** One message of the own durable consumer, by a plain pull request. */
  async pull() {
    const inbox = createInbox(this.inbox);
    const subscription = this.nc.subscribe(inbox, { max: 1 });
    this.nc.publish(this.next, JSON.stringify({ batch: 1, expires: 5 * SECOND }), { reply: inbox });
    for await (const message of subscription) {
      if (!message.reply) {
        throw new Error(`nothing to pull: ${message.headers?.code} ${message.headers?.description}`);
      }
      return {
        record: message.json(),
        delivered: Number(message.reply.split(".")[4]), // $JS.ACK.<stream>.<consumer>.<delivered>.…
        // Asked for an answer, the broker says that it has settled the delivery.
        settle: (how) => this.nc.request(message.reply, how, { timeout: PATIENCE }),
        // Without an answer.
        say: (what) => this.nc.publish(message.reply, what),
      };
    }
    throw new Error("the broker ended the subscription");
  }

  /** Returns when the broker has refused so much. */
  async refused(count) {
    const enough = new Promise((resolve) => {
      this.onRefusal = () => this.refusals.length >= count && resolve();
    });
    await this.nc.flush(); // what is refused is refused before the answer to this
    this.onRefusal();
    await within(enough, `${count} refusals, got ${JSON.stringify(this.refusals)}`);
  }

  close() {
    return this.nc.close();
  }

  #hear(error, message) {
    for (const receipt of error ? [] : message.json()) {
      this.waiting.get(receipt.id)?.(receipt);
    }
  }

  async #watch() {
    for await (const status of this.nc.status()) {
      if (status.type === "error") {
        const { name, operation, subject, queue } = status.error;
        this.refusals.push({ name, operation, subject, ...(queue && { queue }) });
        this.onRefusal();
      }
    }
  }
}

/** The outcome of a promise; fails when it takes too long. */
async function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what}`)), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
