// Server-sent events from a fetch: EventSource can send neither a key nor a body.

/** The events of a response as {id, event, data}; comments only show that it lives. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const found = parsed(text.slice(0, end));
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const found = { id: null, event: "message", data: null };
  for (const line of block.split("\n")) {
    const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) ?? [];
    if (field === "data") found.data = found.data === null ? value : `${found.data}\n${value}`;
    else if (field in found) found[field] = value;
  }
  return found.data === null ? null : found;
}

/** Waits, longer after each failure in a row, up to five seconds. */
export function pause(failures, signal) {
  const ms = Math.min(5000, 250 * 2 ** failures) * (0.75 + Math.random() / 2);
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
