{{/* Every fault at once, each with what to set. */}}
{{- define "postern.validate" -}}
{{- $faults := concat (include "postern.faults.config" . | fromJsonArray) (include "postern.faults.store" . | fromJsonArray) (include "postern.faults.pod" . | fromJsonArray) (include "postern.faults.monitoring" . | fromJsonArray) -}}
{{- if $faults -}}
{{- fail (printf "\n- %s\n" (join "\n- " $faults)) -}}
{{- end -}}
{{- end -}}

{{- define "postern.faults.config" -}}
{{- $faults := list -}}
{{- $c := .Values.config -}}
{{- $issuer := default dict $c.issuer -}}
{{- $front := $c.front -}}
{{- $tls := default dict $front.tls -}}
{{- $keys := default dict $c.keys -}}
{{- $reference := "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$" -}}
{{- if and (ne (toString $issuer.enabled) "false") (not $issuer.url) (not (include "postern.envNames" . | fromJsonArray | has "POSTERN_ISSUER_URL")) -}}
{{- $faults = append $faults "config.issuer.url is not set: set it to the URL that clients reach postern at, such as https://api.example.com" -}}
{{- end -}}
{{- if not $c.routes -}}
{{- $faults = append $faults (printf "config.routes is empty: say where to forward to, such as --set config.routes[0].path=/ --set config.routes[0].upstream[0]=%s" (ternary "http://api.default.svc:80" "http://127.0.0.1:3000" (eq .Values.mode "gateway"))) -}}
{{- end -}}
{{- range $name, $listen := dict "front" $front.listen "admin" $c.admin.listen -}}
{{- if not (regexMatch ":[1-9][0-9]*$" $listen) -}}
{{- $faults = append $faults (printf "config.%s.listen is %q, from which the chart cannot tell the port: use one such as %q" $name $listen (ternary ":8080" ":9090" (eq $name "front"))) -}}
{{- else if regexMatch "^(127\\.|localhost:|\\[::1\\])" $listen -}}
{{- $faults = append $faults (printf "config.%s.listen is %q, which nobody outside the pod reaches, not even its probes: use \":%s\"" $name $listen (regexFind "[0-9]+$" $listen)) -}}
{{- end -}}
{{- end -}}
{{- if eq (include "postern.frontPort" .) (include "postern.adminPort" .) -}}
{{- $faults = append $faults "config.front.listen and config.admin.listen have one port: give them two" -}}
{{- end -}}
{{- if or (hasKey $front "drain_delay") (hasKey $front "drain") -}}
{{- $faults = append $faults "config.front.drain_delay and config.front.drain follow from drain.delaySeconds and drain.seconds, as the pod's grace period does: set those instead" -}}
{{- end -}}
{{- if and $keys.master_key (not (regexMatch $reference $keys.master_key)) -}}
{{- $faults = append $faults "config.keys.master_key would be written in a ConfigMap: put it into a Secret, and name that in secrets.masterKey.existingSecret" -}}
{{- end -}}
{{- $inURL := "^[a-z]+://[^:@/?#]*:(.+)@.*$|^.*$" -}}
{{- $password := regexReplaceAll $inURL (default "" $c.store) "${1}" -}}
{{- if or (and $password (not (regexMatch $reference $password))) (regexMatch "[?&](password|sslpassword)=[^$]" (default "" $c.store)) -}}
{{- $faults = append $faults "config.store has a password, which would be written in a ConfigMap: put the whole DSN into a Secret, and name that in secrets.store.existingSecret" -}}
{{- end -}}
{{- $password = regexReplaceAll $inURL (default "" $c.redis) "${1}" -}}
{{- if and $password (not (regexMatch $reference $password)) -}}
{{- $faults = append $faults "config.redis has a password, which would be written in a ConfigMap: put the whole address into a Secret, and name that in secrets.redis.existingSecret" -}}
{{- end -}}
{{- range $i, $route := $c.routes -}}
{{- range $j, $field := (concat (default list $route.request_headers) (default list $route.response_headers)) -}}
{{- if and $field.value (not (contains "${" $field.value)) (regexMatch "authorization|cookie|apikey|token|secret|password" (regexReplaceAll "[^a-z0-9]" (lower (toString $field.name)) "")) -}}
{{- $faults = append $faults (printf "config.routes[%d] sets %s to what would be written in a ConfigMap: use value: \"${NAME}\", with NAME in env from a Secret, or value_file" $i $field.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.env -}}
{{- if and (has .name (list "POSTERN_STORE" "POSTERN_REDIS" "POSTERN_KEYS_MASTER_KEY")) .value -}}
{{- $faults = append $faults (printf "env %s is written in clear: use valueFrom.secretKeyRef" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.secrets.tls.existingSecret (or $tls.certificate $tls.key) -}}
{{- $faults = append $faults "secrets.tls.existingSecret and config.front.tls.certificate are both set: use one of the two" -}}
{{- end -}}
{{- if and .Values.secrets.tls.clientCAKey (not (has $tls.client_certificate (list "optional" "required"))) -}}
{{- $faults = append $faults "secrets.tls.clientCAKey is set, and config.front.tls.client_certificate is not: set it to optional or required" -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "postern.faults.store" -}}
{{- $faults := list -}}
{{- $c := .Values.config -}}
{{- $keys := default dict $c.keys -}}
{{- $names := include "postern.envNames" . | fromJsonArray -}}
{{- if and .Values.secrets.store.existingSecret (or $c.store $c.store_file) -}}
{{- $faults = append $faults "secrets.store.existingSecret and config.store are both set: use one of the two" -}}
{{- end -}}
{{- if and .Values.secrets.redis.existingSecret (or $c.redis $c.redis_file) -}}
{{- $faults = append $faults "secrets.redis.existingSecret and config.redis are both set: use one of the two" -}}
{{- end -}}
{{- if and .Values.secrets.masterKey.existingSecret (or $keys.master_key $keys.master_key_file) -}}
{{- $faults = append $faults "secrets.masterKey.existingSecret and config.keys.master_key are both set: use one of the two" -}}
{{- end -}}
{{- if eq (include "postern.engine" .) "postgres" -}}
{{- if not (or .Values.secrets.masterKey.existingSecret $keys.master_key $keys.master_key_file (has "POSTERN_KEYS_MASTER_KEY" $names) (has "POSTERN_KEYS_MASTER_KEY_FILE" $names)) -}}
{{- $faults = append $faults "PostgreSQL needs a master key: kubectl create secret generic postern-master-key --from-literal=master-key=\"$(openssl rand -base64 32)\", and set secrets.masterKey.existingSecret=postern-master-key" -}}
{{- end -}}
{{- else -}}
{{- if and $c.store (not (hasPrefix "sqlite:/data/" $c.store)) -}}
{{- $faults = append $faults "config.store is no file on the volume: use sqlite:/data/postern.db, or PostgreSQL with secrets.store.existingSecret" -}}
{{- end -}}
{{- if and (eq .Values.mode "gateway") .Values.autoscaling.enabled -}}
{{- $faults = append $faults "autoscaling.enabled needs a store that pods share, and this one is SQLite, a file for one pod: set secrets.store.existingSecret to a Secret with a PostgreSQL DSN, or autoscaling.enabled=false" -}}
{{- else if include "postern.several" . -}}
{{- $faults = append $faults (printf "replicaCount is %d, and the store is SQLite, a file for one pod: set secrets.store.existingSecret to a Secret with a PostgreSQL DSN, or replicaCount=1" (int .Values.replicaCount)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.domain.declaration .Values.domain.existingConfigMap -}}
{{- $faults = append $faults "domain.declaration and domain.existingConfigMap are both set: use one of the two" -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "postern.faults.pod" -}}
{{- $faults := list -}}
{{- $memory := include "postern.memory" . -}}
{{- if eq $memory "0" -}}
{{- $faults = append $faults (printf "resources.limits.memory is %q, which is no amount of memory: use one such as 320Mi or 1Gi" (toString .Values.resources.limits.memory)) -}}
{{- else if and $memory (lt (int $memory) 32) -}}
{{- $faults = append $faults (printf "resources.limits.memory is %q, less than the 31 MB that postern takes when it is idle: use 64Mi or more" (toString .Values.resources.limits.memory)) -}}
{{- end -}}
{{- if eq .Values.mode "gateway" -}}
{{- if and .Values.autoscaling.enabled (not (dig "requests" "cpu" "" .Values.resources)) -}}
{{- $faults = append $faults "autoscaling.enabled needs resources.requests.cpu, which it measures against: set it, such as 100m" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- $faults = append $faults "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- $faults = append $faults "ingress.enabled needs ingress.hosts: set ingress.hosts[0].host=api.example.com" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- $faults = append $faults "httpRoute.enabled needs a Gateway: set httpRoute.parentRefs[0].name and .namespace" -}}
{{- end -}}
{{- else -}}
{{- $tls := default dict .Values.config.front.tls -}}
{{- if and .Values.sidecar.app.probePath (or (eq (default "" $tls.client_certificate) "required") .Values.config.front.proxy_protocol) -}}
{{- $faults = append $faults "sidecar.app.probePath is asked by kubelet, which has no client certificate and sends no PROXY header, and the front demands one: set it to \"\", and write probes of your own" -}}
{{- end -}}
{{- if and .Values.sidecar.native (semverCompare "<1.29-0" .Capabilities.KubeVersion.Version) -}}
{{- $faults = append $faults (printf "Kubernetes %s has no native sidecars: set sidecar.native=false" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq .Values.sidecar.app.stop "sleep") (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) -}}
{{- $faults = append $faults (printf "Kubernetes %s has no sleep for preStop: set sidecar.app.stop to quit, or to exec where your image has a sleep" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- range $name := list "ingress" "httpRoute" "autoscaling" -}}
{{- if (get $.Values $name).enabled -}}
{{- $faults = append $faults (printf "%s.enabled is of mode gateway: in mode sidecar the Service and the pods are your chart's" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
