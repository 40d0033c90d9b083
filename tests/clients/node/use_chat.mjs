// A page with useChat on it, in a document that is no browser's. Each render that changed something is told as it is on the screen.
import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { Window } from 'happy-dom';
import { createElement, useEffect, useReducer } from 'react';

const window = new Window({ url: 'http://127.0.0.1/' });
Object.assign(globalThis, { window, document: window.document });
if (!globalThis.navigator) globalThis.navigator = window.navigator; // newer versions of Node have their own
const { createRoot } = await import('react-dom/client');

export async function open({ base, chat, model, resume, messages }, outcome, signal, see, inbox) {
  const transport = new DefaultChatTransport({ api: base + '/api/chat', body: { model } });
  const heard = { data: [], finishes: [], errors: [] };
  const page = {};

  function Page() {
    const [finished, finish] = useReducer((count) => count + 1, 0);
    const shown = useChat({
      id: chat,
      messages,
      resume,
      transport,
      onData: (part) => heard.data.push(part),
      onFinish: ({ isAbort, isDisconnect, isError, finishReason }) => {
        heard.finishes.push({ isAbort, isDisconnect, isError, finishReason });
        finish(); // what is told about it is what is rendered after it
      },
      onError: (error) => heard.errors.push(error.message),
    });
    Object.assign(page, shown);
    useEffect(() => {
      see({ status: shown.status, error: shown.error?.message ?? null, messages: shown.messages, ...heard });
    }, [shown.messages, shown.status, shown.error, finished]);
    return null;
  }

  let root;
  inbox.on('send', ({ text }) => void page.sendMessage({ text }));
  inbox.on('stop', () => void page.stop());
  inbox.on('resume', () => void page.resumeStream());
  inbox.on('again', () => void page.regenerate());
  await new Promise((resolve, reject) => {
    root = createRoot(document.createElement('div'), { onUncaughtError: reject });
    root.render(createElement(Page));
    signal.addEventListener('abort', resolve);
  });
  root.unmount();
}
