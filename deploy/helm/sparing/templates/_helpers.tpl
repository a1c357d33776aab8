{{- define "sparing.name" -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end }}

{{- /* Labels of everything; sparing.select adds the role. Takes (list $ role). */ -}}
{{- define "sparing.labels" -}}
app.kubernetes.io/name: sparing
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sparing.select" -}}
app.kubernetes.io/name: sparing
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
