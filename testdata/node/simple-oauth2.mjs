import { clientId, clientSecret, done, equal, issuer, passes, refused, use } from './postern.mjs';
import { ClientCredentials } from 'simple-oauth2';

const held = [];
for (const authorizationMethod of ['header', 'body']) {
  const settings = (secret) => ({
    client: { id: clientId, secret },
    auth: { tokenHost: issuer, tokenPath: '/oauth/token', revokePath: '/oauth/token/revoke' },
    options: { authorizationMethod },
  });
  const access = await new ClientCredentials(settings(clientSecret)).getToken({});
  equal(access.token.token_type, 'Bearer', 'token_type');
  equal(access.expired(), false, 'expired()');
  equal(access.expired(7300), true, 'expired(7300)'); // it read expires_in
  await passes(access.token.access_token);
  held.push(`token ${authorizationMethod}`);

  // It takes nothing but JSON for an answer, that of a revocation too.
  await access.revoke('access_token');
  equal((await use(access.token.access_token)).status, 401, 'a revoked token used');
  held.push(`revoke ${authorizationMethod}`);

  const error = await refused(() => new ClientCredentials(settings(`${clientSecret}x`)).getToken({}), 'a wrong secret');
  equal(error.output?.statusCode, 401, 'status of a wrong secret');
  equal(error.data?.payload?.error, 'invalid_client', 'error of a wrong secret');
  held.push(`invalid_client ${authorizationMethod}`);
}
done(...held);
