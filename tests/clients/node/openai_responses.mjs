// openai for Node, Responses: stream with its helper, whole answer, background, resume, cancel.
import OpenAI from 'openai';

import { QUESTION, TOOL, now } from './words.mjs';

const TOOLS = [{ type: 'function', ...TOOL, strict: false }];
const OVER = ['response.completed', 'response.incomplete', 'response.failed', 'response.cancelled'];
const client = (base, maxRetries = 0) => new OpenAI({ baseURL: base + '/v1', apiKey: 'any', maxRetries, logLevel: 'off' });

export async function ask({ base, model, stream, leave_at, retries, tools }, outcome, signal) {
  const api = client(base, retries);
  const request = { model, input: QUESTION, ...(tools ? { tools: TOOLS } : {}) };
  if (!stream) return take(await api.responses.create(request, { signal }), outcome);

  const helper = api.responses.stream(request, { signal });
  await follow(helper, outcome, { leave_at });
  if (outcome.status === 'completed') take(await helper.finalResponse(), outcome);
}

export async function begin({ base, model, leave_after }, outcome, signal) {
  const events = await client(base).responses.create({ model, input: QUESTION, background: true, stream: true }, { signal });
  await follow(events, outcome, { leave_after });
}

export async function resume({ base, response, after }, outcome, signal) {
  await follow(await client(base).responses.retrieve(response, { stream: true, starting_after: after }, { signal }), outcome, {});
}

export async function cancel({ base, response }, outcome) {
  take(await client(base).responses.cancel(response), outcome);
}

export async function retrieve({ base, response }, outcome) {
  take(await client(base).responses.retrieve(response), outcome);
}

async function follow(events, outcome, { leave_at, leave_after }) {
  outcome.numbers = [];
  for await (const event of events) {
    outcome.numbers.push(event.sequence_number);
    outcome.through = event.sequence_number;
    const seen = pieces(event);
    outcome.text += seen.text ?? '';
    outcome.thinking += seen.thinking ?? '';
    outcome.deltas += seen.text ? 1 : 0;
    if (event.type === 'response.created') Object.assign(outcome, { id: event.response.id, status: event.response.status });
    else if (OVER.includes(event.type)) take(event.response, outcome);
    if ((leave_at && seen[leave_at]) || (leave_after != null && outcome.through >= leave_after)) {
      outcome.left_at = now();
      break;
    }
  }
}

function pieces(event) {
  switch (event.type) {
    case 'response.output_text.delta':
      return { text: event.delta };
    case 'response.reasoning_summary_text.delta':
    case 'response.reasoning_text.delta':
      return { thinking: event.delta };
    case 'response.function_call_arguments.delta':
      return { arguments: event.delta };
    default:
      return {};
  }
}

function take(response, outcome) {
  const items = (type) => response.output.filter((item) => item.type === type);
  const contents = items('message').flatMap((item) => item.content);
  outcome.id = response.id;
  outcome.status = response.status;
  const text = contents.filter((part) => part.type === 'output_text').map((part) => part.text).join('');
  outcome.text = text || (['failed', 'cancelled'].includes(response.status) ? outcome.text : '');
  outcome.thinking = items('reasoning').flatMap((item) => [...(item.summary ?? []), ...(item.content ?? [])]).map((part) => part.text).join('');
  outcome.refusal = contents.filter((part) => part.type === 'refusal').map((part) => part.refusal).join('');
  outcome.calls = items('function_call').map((item) => ({ id: item.call_id, name: item.name, arguments: item.arguments }));
  if (['completed', 'incomplete'].includes(response.status)) outcome.finish = response.incomplete_details?.reason ?? response.status;
  if (response.usage) outcome.usage = { input: response.usage.input_tokens, output: response.usage.output_tokens };
  if (response.error) outcome.error = { kinds: ['response.failed'], message: response.error.message, code: response.error.code };
}
