"""Results for a laboratory system, as files: HL7 v2 and FHIR. They name no patient."""
