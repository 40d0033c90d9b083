// @anthropic-ai/sdk, Messages, with its stream helper.
import Anthropic from '@anthropic-ai/sdk';

import { QUESTION, TOOL, now } from './words.mjs';

const TOOLS = [{ name: TOOL.name, description: TOOL.description, input_schema: TOOL.parameters }];

export async function ask({ base, model, stream, leave_at, retries, tools }, outcome, signal) {
  const client = new Anthropic({ baseURL: base, apiKey: 'any', maxRetries: retries, logLevel: 'off' });
  const request = { model, max_tokens: 4000, messages: [{ role: 'user', content: QUESTION }], ...(tools ? { tools: TOOLS } : {}) };
  if (!stream) return take(await client.messages.create(request, { signal }), outcome);

  const helper = client.messages.stream(request, { signal });
  for await (const event of helper) {
    if (event.type !== 'content_block_delta') continue;
    const seen = { text: event.delta.text, thinking: event.delta.thinking, arguments: event.delta.partial_json };
    outcome.text += seen.text ?? '';
    outcome.thinking += seen.thinking ?? '';
    outcome.deltas += seen.text ? 1 : 0;
    if (leave_at && seen[leave_at]) {
      outcome.left_at = now();
      break;
    }
  }
  if (outcome.left_at) return;
  take(await helper.finalMessage(), outcome);
}

function take(message, outcome) {
  const blocks = (type) => message.content.filter((block) => block.type === type);
  outcome.id = message.id;
  outcome.text = blocks('text').map((block) => block.text).join('');
  outcome.thinking = blocks('thinking').map((block) => block.thinking).join('');
  outcome.calls = blocks('tool_use').map(({ id, name, input }) => ({ id, name, arguments: input }));
  outcome.finish = message.stop_reason;
  outcome.usage = { input: message.usage.input_tokens, output: message.usage.output_tokens };
}
