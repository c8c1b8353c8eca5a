{{/* Names. 48 characters leave room for what is put behind. */}}
{{- define "infer-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- define "infer-gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "infer-gateway.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | replace "." "-") (include "infer-gateway.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "infer-gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "infer-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Of cluster-wide objects, which two releases of one name in two namespaces both have. */}}
{{- define "infer-gateway.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "infer-gateway.fullname" .) -}}
{{- end -}}

{{- define "infer-gateway.configMapName" -}}
{{- include "infer-gateway.fullname" . }}-config
{{- end -}}

{{/* The Secret that holds the admin port's token; "": there is none. */}}
{{- define "infer-gateway.adminSecret" -}}
{{- if .Values.admin.token.existingSecret -}}{{ .Values.admin.token.existingSecret }}
{{- else if .Values.admin.token.create -}}{{ include "infer-gateway.fullname" . }}-admin
{{- end -}}
{{- end -}}

{{- define "infer-gateway.poolName" -}}
{{- default (include "infer-gateway.fullname" .) .Values.endpointPicker.inferencePool.name -}}
{{- end -}}

{{/* The service of the engines that the httpRoute leads to. */}}
{{- define "infer-gateway.enginesName" -}}
{{- default (printf "%s-engines" (include "infer-gateway.fullname" .)) .Values.endpointPicker.httpRoute.service.name -}}
{{- end -}}

{{/* Labels. `component` is "gateway", "valkey" or "test". */}}
{{- define "infer-gateway.selector" -}}
app.kubernetes.io/name: {{ include "infer-gateway.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "infer-gateway.labels" -}}
{{ include "infer-gateway.selector" . }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
app.kubernetes.io/part-of: infer-gateway
{{- end -}}

{{- define "infer-gateway.image" -}}
{{- $image := .Values.inferGateway.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What every container may not do. */}}
{{- define "infer-gateway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Seconds of a Go duration, rounded up. */}}
{{- define "infer-gateway.seconds" -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ns|us|µs|ms|s|m|h)" (toString .) -1 -}}
{{- $unit := regexFind "[a-zµ]+$" . -}}
{{- $scale := get (dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001) $unit | default 0.0 -}}
{{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) $scale) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- end -}}

{{- define "infer-gateway.readsSecrets" -}}
{{- $secrets := .Values.kubernetes.secrets -}}
{{- if kindIs "invalid" $secrets.enabled -}}
{{- if or .Values.kubernetes.namespaces $secrets.names }}true{{ end -}}
{{- else if $secrets.enabled -}}true{{- end -}}
{{- end -}}

{{- define "infer-gateway.pickerTLS" -}}
{{- $picker := .Values.endpointPicker -}}
{{- if ne $picker.tls "auto" -}}{{ $picker.tls }}
{{- else if $picker.envoyExtensionPolicy.enabled -}}off
{{- else -}}selfSigned
{{- end -}}
{{- end -}}

{{/* The pool that the picker picks from, "namespace/name"; "" for any. */}}
{{- define "infer-gateway.pool" -}}
{{- $picker := .Values.endpointPicker -}}
{{- if $picker.pool -}}
{{- if contains "/" $picker.pool }}{{ $picker.pool }}{{ else }}{{ printf "%s/%s" .Release.Namespace $picker.pool }}{{ end -}}
{{- else if $picker.inferencePool.create -}}
{{- printf "%s/%s" .Release.Namespace (include "infer-gateway.poolName" .) -}}
{{- end -}}
{{- end -}}

{{/* Whether anybody can show who they are: "true" or "". */}}
{{- define "infer-gateway.authenticates" -}}
{{- $auth := default dict .Values.config.auth -}}
{{- if or .Values.apiKeys.secretName $auth.jwksUri $auth.issuers $auth.apiKeys $auth.apiKeysFile $auth.oauth $auth.trustedProxies -}}true{{- end -}}
{{- end -}}

{{/* Whether strangers are served: "true" or "". */}}
{{- define "infer-gateway.open" -}}
{{- $auth := default dict .Values.config.auth -}}
{{- if hasKey $auth "required" | and (not (kindIs "invalid" $auth.required)) -}}
{{- if not $auth.required }}true{{ end -}}
{{- else if not (include "infer-gateway.authenticates" .) -}}true{{- end -}}
{{- end -}}

{{/* The GatewayConfiguration, as YAML: what other values mean, then `config` over it. */}}
{{- define "infer-gateway.configuration" -}}
{{- $ports := .Values.ports -}}
{{- $at := dict -}}
{{- range $name, $port := $ports -}}{{- $_ := set $at $name (printf "%s:%d" $.Values.host (int $port)) -}}{{- end -}}
{{- $listeners := dict "http" (dict "address" $at.http) "grpc" (dict "address" $at.grpc) "admin" (dict "address" $at.admin) "maxBufferedBytes" 134217728 -}}
{{- if not .Values.grpc.enabled -}}{{- $_ := set $listeners "grpc" (dict "address" "off") -}}{{- end -}}
{{- $pair := dict "certFile" "/etc/infer-gateway-tls/tls.crt" "keyFile" "/etc/infer-gateway-tls/tls.key" -}}
{{- if .Values.inferGateway.tls.enabled -}}
{{- $_ := set $listeners.http "tls" $pair -}}
{{- if .Values.grpc.enabled -}}{{- $_ := set $listeners.grpc "tls" $pair -}}{{- end -}}
{{- end -}}
{{- if include "infer-gateway.adminSecret" . -}}
{{- $_ := set $listeners.admin "tokenFile" "/etc/infer-gateway-admin/token" -}}
{{- end -}}
{{- if .Values.admin.anonymousMetrics -}}{{- $_ := set $listeners.admin "anonymousMetrics" true -}}{{- end -}}
{{- if .Values.admin.tls -}}{{- $_ := set $listeners.admin "tls" $pair -}}{{- end -}}
{{- if .Values.endpointPicker.enabled -}}
{{- $picker := dict "address" $at.extProc "healthAddress" $at.extProcHealth -}}
{{- $tls := include "infer-gateway.pickerTLS" . -}}
{{- if eq $tls "selfSigned" -}}{{- $_ := set $picker "selfSigned" true -}}{{- end -}}
{{- if eq $tls "secret" -}}{{- $_ := set $picker "tls" $pair -}}{{- end -}}
{{- $_ := set $listeners "extProc" $picker -}}
{{- end -}}
{{- $fairness := dict -}}
{{- range $name, $value := .Values.inferGateway.fairness -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $fairness $name $value -}}{{- end -}}
{{- end -}}
{{- $auth := dict -}}
{{- if .Values.apiKeys.secretName -}}
{{- $_ := set $auth "apiKeysFile" (printf "/etc/infer-gateway-keys/%s" .Values.apiKeys.key) -}}
{{- end -}}
{{- if include "infer-gateway.open" . -}}{{- $_ := set $auth "required" false -}}{{- end -}}
{{- $made := dict "listeners" $listeners "fairness" $fairness "settleTime" "5s" -}}
{{- $log := dict -}}
{{- if .Values.accessLog.enabled -}}{{- $_ := set $log "requests" "all" -}}{{- end -}}
{{- if ne .Values.accessLog.format "json" -}}{{- $_ := set $log "format" .Values.accessLog.format -}}{{- end -}}
{{- if $log -}}{{- $_ := set $made "accessLog" $log -}}{{- end -}}
{{- if $auth -}}{{- $_ := set $made "auth" $auth -}}{{- end -}}
{{- if .Values.valkey.enabled -}}
{{- $url := printf "redis://%s-valkey:6379/0" (include "infer-gateway.fullname" .) -}}
{{- $_ := set $made "state" (dict "redis" (dict "url" $url "passwordFile" "/etc/infer-gateway-valkey/password")) -}}
{{- end -}}
{{- $made = mustMergeOverwrite $made (deepCopy .Values.config) -}}
{{- $_ := set $made "apiVersion" "infer-gateway.dev/v1alpha1" -}}
{{- $_ := set $made "kind" "GatewayConfiguration" -}}
{{- toYaml $made -}}
{{- end -}}

{{/* What cannot be meant. */}}
{{- define "infer-gateway.validate" -}}
{{- $v := .Values -}}
{{- $listeners := default dict $v.config.listeners -}}
{{- range $name, $port := dict "http" "http" "grpc" "grpc" "admin" "admin" "extProc" "extProc" -}}
{{- if hasKey (default dict (get $listeners $name)) "address" -}}
{{- fail (printf "config.listeners.%s.address: probes and Services follow ports.%s; set that" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (default dict $listeners.extProc) "healthAddress" -}}
{{- fail "config.listeners.extProc.healthAddress: probes and Services follow ports.extProcHealth; set that" -}}
{{- end -}}
{{- if and $listeners.extProc (not $v.endpointPicker.enabled) -}}
{{- fail "config.listeners.extProc: of use with endpointPicker.enabled only" -}}
{{- end -}}
{{- if hasKey (default dict $listeners.extProc) "pool" -}}
{{- fail "config.listeners.extProc.pool: say it in endpointPicker.pool" -}}
{{- end -}}
{{- if hasKey (default dict $listeners.extProc) "selfSigned" | or (hasKey (default dict $listeners.extProc) "tls") -}}
{{- fail "config.listeners.extProc: say selfSigned or tls in endpointPicker.tls" -}}
{{- end -}}
{{- range list "http" "grpc" -}}
{{- if hasKey (default dict (get $listeners .)) "tls" -}}
{{- fail (printf "config.listeners.%s.tls: probes and Services follow inferGateway.tls; set that, and mount another certificate there" .) -}}
{{- end -}}
{{- end -}}
{{- range list "tls" "tokenFile" "anonymousMetrics" -}}
{{- if hasKey (default dict $listeners.admin) . -}}
{{- fail (printf "config.listeners.admin.%s: the Service and its scraper follow admin; say it there" .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.admin.tls (not $v.inferGateway.tls.enabled) -}}
{{- fail "admin.tls: its certificate is that of inferGateway.tls, which is not enabled" -}}
{{- end -}}
{{- if and $v.serviceMonitor.enabled (not $v.admin.anonymousMetrics) (not (include "infer-gateway.adminSecret" .)) -}}
{{- fail "serviceMonitor.enabled: /metrics demands a token and there is none; give admin.token or admin.anonymousMetrics" -}}
{{- end -}}
{{- $taken := dict -}}
{{- range $name, $port := $v.ports -}}
{{- if hasKey $taken (toString $port) -}}
{{- fail (printf "ports.%s: %d is ports.%s already" $name (int $port) (get $taken (toString $port))) -}}
{{- end -}}
{{- $_ := set $taken (toString $port) $name -}}
{{- end -}}
{{- $auth := default dict $v.config.auth -}}
{{- if and $auth.required (not (include "infer-gateway.authenticates" .)) -}}
{{- fail "config.auth.required: true, but nobody could be let in: give apiKeys.secretName, or config.auth.apiKeys, jwksUri, issuers, oauth or trustedProxies" -}}
{{- end -}}
{{- if and $v.apiKeys.secretName $auth.apiKeysFile -}}
{{- fail "apiKeys.secretName and config.auth.apiKeysFile: give one of them" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled: both would set the number of replicas; give one of them" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.targetCPUUtilizationPercentage) (not $v.autoscaling.metrics) -}}
{{- fail "autoscaling: nothing to scale by; give targetCPUUtilizationPercentage or metrics" -}}
{{- end -}}
{{- range list "autoscaling" "keda" -}}
{{- $scaling := get $v . -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "%s.minReplicas: more than maxReplicas" .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.keda.enabled (not $v.keda.prometheus.serverAddress) (not $v.keda.triggers) -}}
{{- fail "keda: nothing to scale by; give prometheus.serverAddress or triggers" -}}
{{- end -}}
{{- if and $v.certManager.enabled (not $v.inferGateway.tls.enabled) -}}
{{- fail "certManager.enabled: of use with inferGateway.tls.enabled only" -}}
{{- end -}}
{{- if and $v.inferGateway.tls.enabled (not $v.inferGateway.tls.secretName) -}}
{{- fail "inferGateway.tls.secretName: needed with inferGateway.tls.enabled" -}}
{{- end -}}
{{- if and $v.valkey.enabled (dig "state" "redis" "url" "" $v.config) -}}
{{- fail "valkey.enabled and config.state.redis.url: replicas meet in one place; give one of them" -}}
{{- end -}}
{{- if and (not $v.kubernetes.enabled) (or $v.kubernetes.gatewayAPI $v.kubernetes.namespaces) -}}
{{- fail "kubernetes.gatewayAPI and kubernetes.namespaces: of use with kubernetes.enabled only" -}}
{{- end -}}
{{- if and (or $v.gatewayClass.create $v.gateway.create) (not (and $v.kubernetes.enabled $v.kubernetes.gatewayAPI)) -}}
{{- fail "gatewayClass.create and gateway.create: of use with kubernetes.gatewayAPI only" -}}
{{- end -}}
{{- if and $v.kubernetes.gatewayPorts (not $v.kubernetes.gatewayAPI) -}}
{{- fail "kubernetes.gatewayPorts: of use with kubernetes.gatewayAPI only" -}}
{{- end -}}
{{- range $v.kubernetes.gatewayPorts -}}
{{- if has (int .) (list (int $v.ports.http) (int $v.ports.grpc) (int $v.ports.admin) (int $v.ports.extProc) (int $v.ports.extProcHealth)) -}}
{{- fail (printf "kubernetes.gatewayPorts: %d is the port of another listener" (int .)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.kubernetes.gatewayAPI (not $v.kubernetes.inferenceExtension) -}}
{{- fail "kubernetes.gatewayAPI: HTTPRoutes lead to InferencePools, which needs kubernetes.inferenceExtension" -}}
{{- end -}}
{{- $picker := $v.endpointPicker -}}
{{- if not $picker.enabled -}}
{{- range list "inferencePool.create" "envoyExtensionPolicy.enabled" "httpRoute.enabled" -}}
{{- $parts := splitList "." . -}}
{{- if get (get $picker (first $parts)) (last $parts) -}}
{{- fail (printf "endpointPicker.%s: of use with endpointPicker.enabled only" .) -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- if and (not $v.kubernetes.enabled) (or $picker.pool $picker.inferencePool.create) -}}
{{- fail "endpointPicker.pool and inferencePool.create: pools are read from a cluster; of use with kubernetes.enabled only" -}}
{{- end -}}
{{- if and $v.kubernetes.enabled (not $v.kubernetes.inferenceExtension) (or $picker.pool $picker.inferencePool.create) -}}
{{- fail "endpointPicker.pool and inferencePool.create: need kubernetes.inferenceExtension" -}}
{{- end -}}
{{- if and $picker.inferencePool.create (not $picker.inferencePool.matchLabels) -}}
{{- fail "endpointPicker.inferencePool.matchLabels: needed; which pods are the engines?" -}}
{{- end -}}
{{- if and $picker.inferencePool.create $picker.pool -}}
{{- fail "endpointPicker.pool: with inferencePool.create it is that pool; leave this out" -}}
{{- end -}}
{{- if and $picker.httpRoute.enabled (not $picker.httpRoute.parentRefs) -}}
{{- fail "endpointPicker.httpRoute.parentRefs: needed; which Gateway does traffic come in by?" -}}
{{- end -}}
{{- if and $picker.httpRoute.enabled (not $picker.envoyExtensionPolicy.enabled) (not $picker.inferencePool.create) (not $picker.pool) -}}
{{- fail "endpointPicker.httpRoute: leads nowhere; give inferencePool or pool, or envoyExtensionPolicy" -}}
{{- end -}}
{{- if and $picker.envoyExtensionPolicy.enabled $picker.httpRoute.enabled (not $picker.httpRoute.service.name) (not $picker.inferencePool.matchLabels) -}}
{{- fail "endpointPicker.httpRoute.service.name: needed, or inferencePool.matchLabels; which Service has the engines?" -}}
{{- end -}}
{{- if and $picker.envoyExtensionPolicy.enabled (not $picker.httpRoute.enabled) (not $picker.envoyExtensionPolicy.targetRefs) -}}
{{- fail "endpointPicker.envoyExtensionPolicy.targetRefs: needed without httpRoute" -}}
{{- end -}}
{{- if and (eq (include "infer-gateway.pickerTLS" .) "secret") (not $v.inferGateway.tls.enabled) -}}
{{- fail "endpointPicker.tls: secret is that of inferGateway.tls, which is not enabled" -}}
{{- end -}}
{{- end -}}
{{- if and $v.apiKeys.secretName (contains "/" $v.apiKeys.key) -}}
{{- fail "apiKeys.key: the name of a key, without slashes" -}}
{{- end -}}
{{- $stopping := include "infer-gateway.stopping" . | int -}}
{{- with $v.terminationGracePeriodSeconds -}}
{{- if lt (int .) $stopping -}}
{{- fail (printf "terminationGracePeriodSeconds: %d, but stopping takes up to %d: config.drainTimeout and preStopSleepSeconds" (int .) $stopping) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Seconds that stopping may take. A drain without limit is cut off after an hour. */}}
{{- define "infer-gateway.stopping" -}}
{{- $drain := .Values.config.drainTimeout -}}
{{- $seconds := ternary "30s" $drain (kindIs "invalid" $drain) | include "infer-gateway.seconds" | int -}}
{{- if eq $seconds 0 -}}{{- $seconds = 3600 -}}{{- end -}}
{{- $linger := 0 -}}
{{- if .Values.endpointPicker.enabled -}}
{{- $linger = include "infer-gateway.seconds" (dig "listeners" "extProc" "linger" "5s" .Values.config) | int -}}
{{- end -}}
{{- add (int .Values.preStopSleepSeconds) $seconds $linger 5 -}}
{{- end -}}
