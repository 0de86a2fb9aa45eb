import { algorithm, audience, clientId, done, equal, forged, issuer, refused, token } from './postern.mjs';
import { createRemoteJWKSet, jwtVerify } from 'jose';

const document = await (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).json();
const keys = createRemoteJWKSet(new URL(document.jwks_uri));
const wanted = {
  issuer, audience, typ: 'at+jwt', requiredClaims: ['iss', 'sub', 'aud', 'exp', 'iat', 'jti', 'client_id', 'oid'],
};
const { payload, protectedHeader } = await jwtVerify(token, keys, wanted);
equal(payload.client_id, clientId, 'client_id');
equal(payload.sub, `Client::${clientId}`, 'sub');
equal(protectedHeader.alg, algorithm, 'alg');
equal(document.id_token_signing_alg_values_supported.includes(protectedHeader.alg), true, 'the algorithm is announced');
for (const [why, bad] of Object.entries(forged)) {
  equal((await refused(() => jwtVerify(bad, keys, wanted), why)).code, 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED', why);
}
equal((await refused(() => jwtVerify(token, keys, { ...wanted, audience: 'another' }), 'another audience')).claim, 'aud', 'claim');
done(protectedHeader.alg);
