// An upstream that checks X-Postern-Assertion.
import { algorithm, clientId, done, equal, issuer, refused, token, use } from './postern.mjs';
import { createRemoteJWKSet, decodeJwt, jwtVerify } from 'jose';

const keys = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`));
const wanted = {
  issuer, audience: 'tracks', typ: 'postern-assertion+jwt',
  requiredClaims: ['iss', 'aud', 'sub', 'client_id', 'oid', 'environment', 'jti', 'tid', 'iat', 'exp'],
};
const { status, text } = await use(token);
equal(status, 200, 'status');
const assertion = /\r\nX-Postern-Assertion: (\S+)\r\n/.exec(text)?.[1];
const { payload, protectedHeader } = await jwtVerify(assertion, keys, wanted);
equal(protectedHeader.alg, algorithm, 'alg');
equal(payload.client_id, clientId, 'client_id');
equal(payload.sub, `Client::${clientId}`, 'sub');
equal(payload.tid, decodeJwt(token).jti, 'tid');
equal(payload.exp - payload.iat, 300, 'lifetime');
equal((await refused(() => jwtVerify(assertion, keys, { ...wanted, audience: 'albums' }), 'for another audience')).claim, 'aud', 'claim');
equal((await refused(() => jwtVerify(assertion, keys, { ...wanted, typ: 'at+jwt' }), 'an assertion as access token')).claim, 'typ', 'claim');
equal((await refused(() => jwtVerify(token, keys, { ...wanted, audience: undefined }), 'an access token as assertion')).claim, 'typ', 'claim');
equal((await use(assertion)).status, 401, 'the front, with an assertion for a token,');
const [head, body] = assertion.split('.');
const forged = `${head}.${body}.${token.split('.')[2]}`;
equal((await refused(() => jwtVerify(forged, keys, wanted), 'forged')).code, 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED', 'forged');
done('assertion', algorithm);
