import { audience, clientId, clientSecret, done, equal, forged, issuer, passes, refused, use } from './postern.mjs';
import * as oauth from 'oauth4webapi';

const loopback = { [oauth.allowInsecureRequests]: true }; // plain http is for this machine alone
const url = new URL(issuer);
const client = { client_id: clientId };
const held = [];

for (const algorithm of ['oidc', 'oauth2']) {
  const answer = await oauth.discoveryRequest(url, { algorithm, ...loopback });
  const found = await oauth.processDiscoveryResponse(url, answer);
  equal(found.issuer, issuer, `issuer of ${algorithm}`);
  held.push(`discovery ${algorithm}`);
}
const as = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, { algorithm: 'oauth2', ...loopback }));

for (const [name, authentication] of [
  ['client_secret_basic', oauth.ClientSecretBasic(clientSecret)],
  ['client_secret_post', oauth.ClientSecretPost(clientSecret)],
]) {
  for (const kind of ['token', 'revocation', 'introspection']) {
    if (!as[`${kind}_endpoint_auth_methods_supported`].includes(name)) throw new Error(`${kind} does not announce ${name}`);
  }
  const grant = async () =>
    oauth.processClientCredentialsResponse(
      as, client, await oauth.clientCredentialsGrantRequest(as, client, authentication, new URLSearchParams(), loopback));
  const { access_token: token, token_type, expires_in } = await grant();
  equal(token_type, 'bearer', 'token_type');
  equal(expires_in, 7200, 'expires_in');
  await passes(token);
  held.push(`grant ${name}`);

  // The library is a resource server's too (RFC 9068).
  const presented = (t) => new Request(`${issuer}/v1/tracks`, { headers: { Authorization: `Bearer ${t}` } });
  const claims = await oauth.validateJwtAccessToken(as, presented(token), audience, loopback);
  equal(claims.client_id, clientId, 'client_id');
  for (const [why, bad] of Object.entries(forged)) {
    await refused(() => oauth.validateJwtAccessToken(as, presented(bad), audience, loopback), why);
  }
  held.push(`verify ${name}`);

  const introspect = async (t) =>
    oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, authentication, t, loopback));
  const before = await introspect(token);
  equal(before.active, true, 'active');
  equal(before.client_id, clientId, 'client_id');
  equal(before.sub, claims.sub, 'sub');
  equal(before.jti, claims.jti, 'jti');
  equal(before.exp, claims.exp, 'exp');
  for (const [why, bad] of Object.entries(forged)) equal(JSON.stringify(await introspect(bad)), '{"active":false}', why);
  held.push(`introspection ${name}`);

  await oauth.processRevocationResponse(await oauth.revocationRequest(as, client, authentication, token, loopback));
  equal(JSON.stringify(await introspect(token)), '{"active":false}', 'a revoked token');
  equal((await use(token)).status, 401, 'a revoked token used');
  held.push(`revocation ${name}`);
}

// A refusal is told in the words that the library knows.
const error = await refused(async () => {
  const wrong = oauth.ClientSecretPost(`${clientSecret.slice(0, -1)}!`);
  await oauth.processClientCredentialsResponse(
    as, client, await oauth.clientCredentialsGrantRequest(as, client, wrong, new URLSearchParams(), loopback));
}, 'a wrong secret');
equal(error.status, 401, 'status of a wrong secret');
if (error instanceof oauth.ResponseBodyError) equal(error.error, 'invalid_client', 'error of a wrong secret');
else if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error;
held.push('invalid_client');

const licence = await refused(async () => {
  await oauth.processClientCredentialsResponse(as, client, await oauth.clientCredentialsGrantRequest(
    as, client, oauth.ClientSecretBasic(clientSecret), new URLSearchParams({ scope: 'never "licensed' }), loopback));
}, 'a scope that cannot be');
equal(licence.error, 'invalid_scope', 'error of a scope');
equal(licence.status, 400, 'status of a scope');
held.push('invalid_scope');

done(...held);
