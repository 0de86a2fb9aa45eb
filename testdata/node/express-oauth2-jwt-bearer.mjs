// An API of the usual making that checks for itself what postern issued. It is asked beside postern; whether it
// stands behind it makes no difference to the token.
import { algorithm, audience, clientId, done, equal, forged, issuer, token } from './postern.mjs';
import express from 'express';
import bearer from 'express-oauth2-jwt-bearer';

const api = express();
api.use(bearer.auth({ issuerBaseURL: issuer, audience, tokenSigningAlg: algorithm, strict: true })); // strict: RFC 9068
api.get('/tracks', (request, answer) => answer.json(request.auth.payload));
api.use((error, _request, answer, _next) => answer.status(error.status ?? 500).set(error.headers ?? {}).json({ error: error.code, message: error.message }));

const listener = api.listen(0, '127.0.0.1');
await new Promise((resolve, reject) => listener.once('listening', resolve).once('error', reject));
const ask = async (presented) => {
  const headers = presented === undefined ? {} : { Authorization: `Bearer ${presented}` };
  const answer = await fetch(`http://127.0.0.1:${listener.address().port}/tracks`, { headers });
  return { status: answer.status, said: await answer.json() };
};
try {
  const good = await ask(token);
  if (good.status !== 200) throw new Error(`the API refused: ${good.status} ${JSON.stringify(good.said)}`);
  equal(good.said.client_id, clientId, 'client_id');
  equal((await ask()).status, 401, 'no token');
  for (const [why, bad] of Object.entries(forged)) {
    const { status, said } = await ask(bad);
    equal(status, 401, why);
    equal(said.error, 'invalid_token', why);
  }
  done(algorithm);
} finally {
  listener.close();
}
