// openai for Node, Chat Completions, with its stream helper.
import OpenAI from 'openai';

import { QUESTION, TOOL, now } from './words.mjs';

const TOOLS = [{ type: 'function', function: TOOL }];

export async function ask({ base, model, stream, leave_at, retries, tools }, outcome, signal) {
  const client = new OpenAI({ baseURL: base + '/v1', apiKey: 'any', maxRetries: retries, logLevel: 'off' });
  const request = { model, messages: [{ role: 'user', content: QUESTION }], ...(tools ? { tools: TOOLS } : {}) };
  if (!stream) return take(await client.chat.completions.create(request, { signal }), outcome);

  const helper = client.chat.completions.stream({ ...request, stream_options: { include_usage: true } }, { signal });
  for await (const chunk of helper) {
    const delta = chunk.choices[0]?.delta ?? {};
    const seen = {
      text: delta.content,
      thinking: delta.reasoning_content,
      arguments: delta.tool_calls?.some((call) => call.function?.arguments),
    };
    outcome.text += seen.text ?? '';
    outcome.thinking += seen.thinking ?? '';
    outcome.deltas += seen.text ? 1 : 0;
    if (leave_at && seen[leave_at]) {
      outcome.left_at = now();
      break; // which is how one leaves: the SDK closes the request
    }
  }
  if (outcome.left_at) return;
  const thought = outcome.thinking;
  take(await helper.finalChatCompletion(), outcome);
  outcome.thinking = thought; // the helper does not gather a field that it does not know
}

function take(completion, outcome) {
  const [choice] = completion.choices;
  const { message } = choice;
  outcome.id = completion.id;
  outcome.text = message.content ?? '';
  outcome.thinking = message.reasoning_content ?? '';
  outcome.refusal = message.refusal ?? '';
  outcome.calls = (message.tool_calls ?? []).map(({ id, function: { name, arguments: text } }) => ({ id, name, arguments: text }));
  outcome.finish = choice.finish_reason;
  if (completion.usage) outcome.usage = { input: completion.usage.prompt_tokens, output: completion.usage.completion_tokens };
}
