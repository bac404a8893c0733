output "vpc_id" {
  description = "Id of the VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "Ids of the private subnets, in the order of availability_zones."
  value       = aws_subnet.private[*].id

  # a machine in them installs packages when it boots: the way out must be there first
  depends_on = [aws_route.private_to_nat, aws_route_table_association.private, aws_vpc_endpoint.s3]
}

output "private_subnet_cidrs" {
  description = "Ranges of the private subnets, in the order of availability_zones."
  value       = local.private_cidrs
}

output "availability_zones" {
  description = "Zones of the private subnets."
  value       = var.availability_zones
}

output "head_private_ip" {
  description = "Address set aside for the head: the eleventh of the first private subnet (AWS keeps the first four)."
  value       = cidrhost(local.private_cidrs[0], 10)
}

output "nat_public_ip" {
  description = "Address from which the cluster's traffic comes, for allow lists elsewhere."
  value       = aws_eip.nat.public_ip
}
