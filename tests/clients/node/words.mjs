// What all drivers share: the question, the clock that every process of a machine shares, and what an error was.
export const QUESTION = 'How high is the river?';
export const TOOL = {
  name: 'file_report',
  description: 'File a report.',
  parameters: { type: 'object', properties: { station: { type: 'string' } }, required: ['station'] },
};

export const now = () => Number(process.hrtime.bigint()) / 1e9;

export const newOutcome = () => ({ text: '', thinking: '', refusal: '', calls: [], deltas: 0 });

export function failure(error) {
  const kinds = [];
  for (let kind = error?.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) kinds.push(kind.name);
  return {
    kinds,
    message: error?.message ?? String(error),
    status: error?.status ?? null,
    code: error?.code ?? error?.type ?? null,
    retry_after: error?.headers?.get?.('retry-after') ?? null,
  };
}
