// One process for all clients: takes commands on its input and says on its output what the clients saw, one JSON object a line.
//   {"id": 1, "client": "openai_chat", "base": "http://…", "model": "…", "stream": true}   is answered by {"id": 1, "outcome": {…}}
//   {"id": 1, "abort": true}                 what a user's AbortController does; a page is closed
//   {"id": 1, "tell": "send", "text": "…"}   for clients with a state of their own, which say {"id": 1, "seen": {…}} when it changes
import { EventEmitter } from 'node:events';
import { createInterface } from 'node:readline';

import { failure, newOutcome } from './words.mjs';

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n');
const running = new Map();

async function run({ id, client, act = 'ask', ...command }) {
  const controller = new AbortController();
  const inbox = new EventEmitter();
  running.set(id, { controller, inbox });
  const outcome = newOutcome();
  try {
    const driver = await import(`./${client}.mjs`);
    await driver[act](command, outcome, controller.signal, (seen) => say({ id, seen }), inbox);
  } catch (error) {
    outcome.error = failure(error);
  }
  running.delete(id);
  say({ id, outcome });
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const known = running.get(command.id);
  if (command.abort) known?.controller.abort();
  else if (command.tell) known?.inbox.emit(command.tell, command);
  else void run(command);
}
process.exit(0);
