import { clientId, clientSecret, done, equal, issuer, passes, use } from './postern.mjs';
import * as openid from 'openid-client';

const held = [];
for (const [name, authentication] of [
  ['default', undefined], // given the secret alone, the library decides
  ['client_secret_basic', openid.ClientSecretBasic(clientSecret)],
  ['client_secret_post', openid.ClientSecretPost(clientSecret)],
]) {
  const config = await openid.discovery(
    new URL(issuer), clientId, clientSecret, authentication, { execute: [openid.allowInsecureRequests] });
  equal(config.serverMetadata().token_endpoint, `${issuer}/oauth/token`, 'token_endpoint');
  const answer = await openid.clientCredentialsGrant(config);
  equal(answer.token_type, 'bearer', 'token_type');
  equal(answer.expiresIn() > 7100, true, 'expiresIn() > 7100');
  await passes(answer.access_token);
  equal((await openid.tokenIntrospection(config, answer.access_token)).active, true, 'active');
  await openid.tokenRevocation(config, answer.access_token);
  equal((await openid.tokenIntrospection(config, answer.access_token)).active, false, 'active after revocation');
  equal((await use(answer.access_token)).status, 401, 'a revoked token used');
  held.push(name);
}
done(...held);
