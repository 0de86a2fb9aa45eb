// What the Go test tells each script, and nothing else does: who issues, whom the token is for, the client's
// credentials, a good token, and forged ones that must be refused.
import { webcrypto } from 'node:crypto';

globalThis.crypto ??= webcrypto; // Node 18 hides it

// In short: whole, some errors show the request that they come from with the secret in it.
process.on('uncaughtException', (error) => {
  for (let e = error; e; e = e.cause) console.error(e.stack ?? e);
  process.exit(1);
});

const said = (name) => {
  const value = process.env[`POSTERN_TEST_${name}`]; // a name of our own: some libraries read ISSUER and AUDIENCE
  if (!value) throw new Error(`POSTERN_TEST_${name} is not set`);
  return value;
};

export const issuer = said('ISSUER');
export const audience = said('AUDIENCE');
export const clientId = said('CLIENT_ID');
export const clientSecret = said('CLIENT_SECRET');
export const algorithm = said('ALGORITHM');
export const token = said('TOKEN');
export const forged = JSON.parse(said('FORGED'));

// use sends a request through postern and returns the status and what the upstream received.
export async function use(token, path = '/v1/tracks') {
  const answer = await fetch(issuer + path, { headers: { Authorization: `Bearer ${token}` } });
  return { status: answer.status, text: await answer.text() };
}

// passes fails unless postern forwards a request with token in the client's name.
export async function passes(token) {
  const { status, text } = await use(token);
  if (status !== 200 || !text.includes(`X-Client-Id: ${clientId}\r\n`)) throw new Error(`not forwarded: ${status} ${text}`);
}

// refused returns the error that action ends with; ending well is the fault.
export async function refused(action, what) {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new Error(`accepted: ${what}`);
}

// equal compares one fact.
export function equal(got, want, what) {
  if (got !== want) throw new Error(`${what} is ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

// done prints what was held, for the Go test to read: a script that stops early prints nothing.
export function done(...held) {
  console.log(JSON.stringify({ held }));
}
