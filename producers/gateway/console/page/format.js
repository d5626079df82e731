// Numbers, times and ids as people read them.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** A count: 950, 1,204, 18.5K. */
export const count = (n) => (n == null ? "–" : n < 10000 ? whole.format(n) : compact.format(n));

/** A rate: 0.4, 12, 1,890. */
export const rate = (n) => (n == null ? "–" : n < 10 ? tenths.format(n) : count(n));

/** A limit; without one, a dash. */
export const limit = (n) => (n == null ? "–" : count(n));

/** A number of seconds: 8 ms, 1.2 s, 4 min, 3 h, 2 d. */
export function span(s) {
  if (s == null) return "–";
  if (s < 1) return `${whole.format(s * 1000)} ms`;
  if (s < 10) return `${tenths.format(s)} s`;
  if (s < 120) return `${whole.format(s)} s`;
  if (s < 7200) return `${whole.format(s / 60)} min`;
  if (s < 172800) return `${whole.format(s / 3600)} h`;
  return `${whole.format(s / 86400)} d`;
}

/** How long ago a moment in ms was. */
export const ago = (ms) => (ms ? `${span(Math.max(1, (Date.now() - ms) / 1000))} ago` : "–");

/** The part of a job's id that differs from its neighbours': the end of its ULID. */
export const short = (id) => id.split(".")[0].slice(-8);

/** The beginning of a worker's id and the end of it. */
export const worker = (id) => (id && id.length > 18 ? `${id.slice(0, 9)}…${id.slice(-6)}` : id || "–");

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
